"""The progress display: a live table on a terminal, or a line every N seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, TextIO

from gpuexec import events
from gpuexec.observe.live_region import LiveRegion

if TYPE_CHECKING:
    from gpuexec.observe.run_view import RunView, RunWatcher, StageView
    from gpuexec.report.model import RunReport

LIVE_PERIOD_S = 0.2


class LineProgress:
    """Prints a line every ``interval_s`` seconds, for logs, pipes and CI. ``report``: the run's, being built."""

    def __init__(self, report: RunReport, interval_s: float = 0.0, out: TextIO | None = None) -> None:
        self._interval_s = interval_s
        self._next_at = 0.0
        self._out = out or sys.stderr
        self._views = Views(report)

    def on_event(self, event: events.RunEvent) -> None:
        """Print a line for a gauge reading; ignore everything else."""
        view = self._views.take(event)
        if isinstance(event, events.RunStarted):
            self._next_at = event.at + max(1.0, self._interval_s)  # a short run prints nothing
        elif view is not None and isinstance(event, events.Gauged) and event.at >= self._next_at:
            self._next_at += self._interval_s
            print(_line(view), file=self._out, flush=True)


class LiveProgress:
    """Redraws a table in place. ``inner`` is the observer that writes the log, which appears above the table.

    ``report``: the run's, being built from the same events before. ``out``: the terminal (default: stderr).
    """

    def __init__(self, inner: events.Observer, report: RunReport, out: TextIO | None = None) -> None:
        self._inner = inner
        self._region = LiveRegion(out or sys.stderr)
        self._given_up = False  # the terminal cannot be written
        self._views = Views(report)

    def on_event(self, event: events.RunEvent) -> None:
        """Redraw the table on a gauge reading, take it away at the end; pass every event on to ``inner``.

        Raises what the terminal raises, once; there is no table from then on.
        """
        try:
            if not self._given_up:
                self._show(event)
        except Exception:
            self._give_up()
            raise
        finally:
            self._inner.on_event(event)

    def _show(self, event: events.RunEvent) -> None:
        view = self._views.take(event)
        if view is not None:
            self._draw(view)
        elif isinstance(event, events.RunEnded):
            self._region.close()

    def _give_up(self) -> None:
        self._given_up = True
        with contextlib.suppress(Exception):  # it watches the standard streams, also if it failed
            self._region.close()

    def _draw(self, view: RunView) -> None:
        from gpuexec.observe.live_table import live_lines

        columns, rows = self._region.size()
        # A full last column or row would make the terminal wrap or scroll.
        self._region.draw(live_lines(view, columns - 1, rows - 1))


class Views:
    """Views of a run that goes on. What they need is imported at the first gauge reading: workers start before it."""

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self._started: events.RunStarted | None = None
        self._watcher: RunWatcher | None = None

    def take(self, event: events.RunEvent) -> RunView | None:
        """Take an event in, and return the view if there is a new one."""
        if self._watcher is None:
            if not isinstance(event, events.Gauged):
                if isinstance(event, events.RunStarted):
                    self._started = event
                return None
            from gpuexec.observe.run_view import RunWatcher

            self._watcher = RunWatcher(self._report)
            if self._started is not None:
                self._watcher.on_event(self._started)
        return self._watcher.view if self._watcher.on_event(event) else None


def _line(view: RunView) -> str:
    from gpuexec.observe.live_table import steady

    left = "" if view.remaining_s is None else f", about {steady(view.remaining_s)} left"
    return f"[{view.seconds:7.1f} s{left}] " + " · ".join(_describe(view, stage) for stage in view.stages)


def _describe(view: RunView, stage: StageView) -> str:
    from gpuexec.observe.live_table import done_of, rate_of, workers_of
    from gpuexec.report.columns import printable

    name = printable(stage.name)
    if stage.finished:
        return f"{name} {stage.done} done ✓"
    limits = " (limits the run)" if stage.index == view.bottleneck else ""
    noun = "worker" if stage.workers == 1 and not stage.starting else "workers"
    return (
        f"{name}{limits} {done_of(stage)} done, {stage.queued} queued, {stage.in_flight} in flight, "
        f"{workers_of(stage)} {noun}, {rate_of(stage.rate)}"
    )
