"""The progress display in a notebook: one output of the cell, drawn again in place."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.observe.progress import Views

if TYPE_CHECKING:
    from gpuexec.report.model import RunReport

NOTEBOOK_PERIOD_S = 0.5
_COLUMNS, _ROWS = 100, 40
_STYLE = "line-height: 1.25; white-space: pre"


class NotebookProgress:
    """Draws the live table, and at the end the table that closes the run. ``report``: the run's, being built."""

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self._views = Views(report)
        self._handle: Any = None

    def on_event(self, event: events.RunEvent) -> None:
        """Draw on a gauge reading, and at the end; ignore everything else. Raises what the notebook raises."""
        view = self._views.take(event)
        if view is not None:
            from gpuexec.observe.live_table import live_lines

            self._draw(live_lines(view, _COLUMNS, _ROWS))
        elif isinstance(event, events.RunEnded) and self._handle is not None:
            from gpuexec.report.table import stage_table

            self._draw(list(stage_table(self._report).lines(_COLUMNS)))

    def _draw(self, lines: Sequence[str]) -> None:
        text = "\n".join(lines)
        shown = {"text/plain": text, "text/html": f'<pre style="{_STYLE}">{html.escape(text)}</pre>'}
        if self._handle is None:
            import IPython.display

            show: Any = IPython.display.display
            self._handle = show(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
