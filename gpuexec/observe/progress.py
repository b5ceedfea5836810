"""The progress display: a live table on a terminal, or a line every N seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING, TextIO

from gpuexec import events

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

LIVE_PERIOD_S = 0.2
_RATE_WINDOW_S = 5.0


class Rates:
    """Tasks per second of each stage over the last five seconds."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, tuple[int, ...]]] = deque()

    def update(self, at: float, done: tuple[int, ...]) -> list[float | None]:
        """Add a reading and return the rate of each stage, ``None`` after a single reading.

        ``at``: seconds of the monotonic clock. ``done``: tasks that each stage has finished so far.
        """
        self._readings.append((at, done))
        while len(self._readings) > 2 and at - self._readings[1][0] > _RATE_WINDOW_S:
            self._readings.popleft()
        first_at, first_done = self._readings[0]
        elapsed = at - first_at
        return [(now - then) / elapsed if elapsed > 0 else None for now, then in zip(done, first_done, strict=True)]


class LineProgress:
    """Prints one line per period, for logs, pipes and CI."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._stage_names: tuple[str, ...] = ()
        self._rates = Rates()
        self._started_at = 0.0

    def on_event(self, event: events.RunEvent) -> None:
        """Print a line for a gauge reading; ignore everything else."""
        match event:
            case events.RunStarted():
                self._stage_names, self._started_at = event.stage_names, event.at
            case events.Gauged() if event.at - self._started_at >= 1.0:  # a short run prints nothing
                rates = self._rates.update(event.at, tuple(g.done for g in event.stages))
                parts = [
                    f"{name} {_describe(gauges, rate)}"
                    for name, gauges, rate in zip(self._stage_names, event.stages, rates, strict=True)
                ]
                print(f"[{event.at - self._started_at:7.1f} s] " + " · ".join(parts), file=self._out, flush=True)


class LiveProgress:
    """Redraws a table in place. ``inner`` is the observer that writes the log, which appears above the table."""

    def __init__(self, inner: events.Observer) -> None:
        self._inner = inner
        self._live: Live | None = None
        self._given_up = False  # the terminal cannot be written
        self._stage_names: tuple[str, ...] = ()
        self._rates = Rates()
        self._started_at = 0.0

    def on_event(self, event: events.RunEvent) -> None:
        """Redraw the table on a gauge reading, clear it before a log line; pass every event on to ``inner``.

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
        match event:
            case events.RunStarted():
                self._stage_names, self._started_at = event.stage_names, event.at
            case events.Gauged():
                self._draw(event)
            case events.WorkerLogged() | events.WorkerPrinted() | events.RunEnded():
                self._clear()

    def _give_up(self) -> None:
        self._given_up = True
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(Exception):  # it has put itself in the place of sys.stderr, also if it failed
                live.stop()

    def _draw(self, event: events.Gauged) -> None:
        from rich.console import Console
        from rich.live import Live

        table = self._table(event)
        if self._live is None:
            console = Console(stderr=True)
            self._live = Live(table, console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start(refresh=True)
        else:
            self._live.update(table, refresh=True)

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, event: events.Gauged) -> Table:
        from rich.table import Table

        rates = self._rates.update(event.at, tuple(g.done for g in event.stages))
        table = Table(title=f"running for {event.at - self._started_at:.0f} s", title_justify="left")
        table.add_column("stage", overflow="fold")
        for heading in ("done", "queued", "in flight", "workers", "rate"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, gauges, rate in zip(self._stage_names, event.stages, rates, strict=True):
            table.add_row(
                name + (" ✓" if gauges.finished else ""),
                str(gauges.done),
                str(gauges.queued),
                str(gauges.in_flight),
                _workers(gauges),
                _rate(rate),
            )
        return table


def _describe(gauges: events.StageGauges, rate: float | None) -> str:
    if gauges.finished:
        return f"{gauges.done} done ✓"
    return (
        f"{gauges.done} done, {gauges.queued} queued, {gauges.in_flight} in flight, "
        f"{_workers(gauges)} workers, {_rate(rate)}"
    )


def _workers(gauges: events.StageGauges) -> str:
    return f"{gauges.workers}" + (f" (+{gauges.starting} starting)" if gauges.starting else "")


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.1f}/s"
