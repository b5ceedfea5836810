"""The progress display of a run, on stderr."""

from __future__ import annotations

import os
import sys

from gpuexec import events
from gpuexec.config import ExecutorConfig
from gpuexec.observe.progress import LIVE_PERIOD_S, LineProgress, LiveProgress
from gpuexec.observe.relay import LogRelay
from gpuexec.report.model import RunReport

_GAUGE_S = 1.0  # for the report's time lines
_NO_CURSOR = ("dumb", "unknown")  # terminals, by $TERM, on which nothing can be drawn again in place


def progress_for(options: ExecutorConfig, report: RunReport) -> tuple[list[events.Observer], float]:
    """Return the observers that show progress and log lines, and the seconds between the gauges they need.

    ``report``: the run's, which must get each event before these observers do. Observers and period belong together: a
    live table needs gauges more often than the report does.
    """
    relay = LogRelay()
    is_terminal = _stderr_is_terminal()
    if not options.show_progress or is_terminal is None:
        return [relay], _GAUGE_S
    if _in_notebook():
        from gpuexec.observe.notebook import NOTEBOOK_PERIOD_S, NotebookProgress

        return [relay, NotebookProgress(report)], NOTEBOOK_PERIOD_S
    if is_terminal and os.environ.get("TERM") not in _NO_CURSOR:
        return [LiveProgress(relay, report)], LIVE_PERIOD_S
    return [relay, LineProgress(report, options.progress_interval_s)], min(_GAUGE_S, options.progress_interval_s)


def _in_notebook() -> bool:
    """Return whether this program is the kernel of a notebook, which has imported IPython."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return getattr(get_shell() if callable(get_shell) else None, "kernel", None) is not None


def _stderr_is_terminal() -> bool | None:
    """Return ``None`` if there is no stderr: a daemon, pythonw, or a program that has closed it."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, OSError, ValueError):
        return None
