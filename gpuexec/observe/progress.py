"""The progress display: a live table on a terminal, or a line every N seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from gpuexec import events
from gpuexec.observe.live_region import LiveRegion
from gpuexec.report.columns import Column, lay_out, shortened

LIVE_PERIOD_S = 0.2
_RATE_WINDOW_S = 5.0
_COLUMNS = (Column("done", 0), Column("queued", 3), Column("in flight", 4), Column("workers", 2), Column("rate", 1))
_MIN_TABLE_HEIGHT = 4  # title, headings, a stage, and the number of the others


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
    """Prints a line every ``interval_s`` seconds, for logs, pipes and CI."""

    def __init__(self, interval_s: float = 0.0, out: TextIO | None = None) -> None:
        self._interval_s = interval_s
        self._next_at = 0.0
        self._out = out or sys.stderr
        self._stage_names: tuple[str, ...] = ()
        self._rates = Rates()
        self._started_at = 0.0

    def on_event(self, event: events.RunEvent) -> None:
        """Print a line for a gauge reading; ignore everything else."""
        match event:
            case events.RunStarted():
                self._stage_names, self._started_at = event.stage_names, event.at
                self._next_at = event.at + max(1.0, self._interval_s)  # a short run prints nothing
            case events.Gauged() if event.at >= self._next_at:
                self._next_at += self._interval_s
                rates = self._rates.update(event.at, tuple(g.done for g in event.stages))
                parts = [
                    f"{name} {_describe(gauges, rate)}"
                    for name, gauges, rate in zip(self._stage_names, event.stages, rates, strict=True)
                ]
                print(f"[{event.at - self._started_at:7.1f} s] " + " · ".join(parts), file=self._out, flush=True)


class LiveProgress:
    """Redraws a table in place. ``inner`` is the observer that writes the log, which appears above the table.

    ``out``: the terminal (default: stderr).
    """

    def __init__(self, inner: events.Observer, out: TextIO | None = None) -> None:
        self._inner = inner
        self._region = LiveRegion(out or sys.stderr)
        self._given_up = False  # the terminal cannot be written
        self._stage_names: tuple[str, ...] = ()
        self._rates = Rates()
        self._started_at = 0.0

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
        match event:
            case events.RunStarted():
                self._stage_names, self._started_at = event.stage_names, event.at
            case events.Gauged():
                self._draw(event)
            case events.RunEnded():
                self._region.close()

    def _give_up(self) -> None:
        self._given_up = True
        with contextlib.suppress(Exception):  # it watches the standard streams, also if it failed
            self._region.close()

    def _draw(self, event: events.Gauged) -> None:
        rates = self._rates.update(event.at, tuple(g.done for g in event.stages))
        columns, rows = self._region.size()
        seconds = event.at - self._started_at
        # A full last column or row would make the terminal wrap or scroll.
        self._region.draw(live_lines(seconds, self._stage_names, event.stages, rates, columns - 1, rows - 1))


def live_lines(
    seconds: float,
    names: Sequence[str],
    stages: Sequence[events.StageGauges],
    rates: Sequence[float | None],
    width: int,
    height: int,
) -> list[str]:
    """Return the table's lines, no wider and no more than there is room for.

    Where there are more stages than rows, finished stages are left out first, then the last ones.
    """
    if width < 1 or height < 1:
        return []
    title = shortened(f"running for {seconds:.0f} s", width)
    if height < _MIN_TABLE_HEIGHT:
        return [title]
    chosen = _stages_shown([gauges.finished for gauges in stages], height - 2)
    rows = [
        (
            f"{gauges.done}",
            f"{gauges.queued}",
            f"{gauges.in_flight}",
            _workers(gauges),
            _rate(rate),
        )
        for gauges, rate in zip(stages, rates, strict=True)
    ]
    shown_names = [names[n] + (" ✓" if stages[n].finished else "") for n in chosen]
    lines = [title, *lay_out("stage", shown_names, _COLUMNS, [rows[n] for n in chosen], width)]
    left_out = [gauges for n, gauges in enumerate(stages) if n not in set(chosen)]
    if left_out:
        finished = sum(gauges.finished for gauges in left_out)
        lines.append(shortened(f"… {len(left_out)} more stages, {finished} of them finished", width))
    return lines


def _stages_shown(finished: Sequence[bool], rows: int) -> list[int]:
    """Return which stages to show in so many rows, one of which tells of the others if there are too many."""
    count = len(finished)
    if count <= rows:
        return list(range(count))
    by_interest = sorted(range(count), key=lambda n: finished[n])
    return sorted(by_interest[: rows - 1])


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
