"""The progress display, from events alone: rates, lines and the live table."""

from __future__ import annotations

import io

from gpuexec import events
from gpuexec.observe.progress import LineProgress, LiveProgress, Rates
from gpuexec.plan.model import Plan

PLAN = Plan(())


def gauges(at: float, done: int, finished: bool = False) -> events.Gauged:
    return events.Gauged(at, tuple(events.StageGauges(done, 3, 2, 1, starting, finished) for starting in (0, 1)))


def test_rates_cover_the_last_five_seconds():
    rates = Rates()
    assert rates.update(0.0, (0,)) == [None]
    assert rates.update(2.0, (10,)) == [5.0]
    assert rates.update(20.0, (28,)) == [1.0], "18 tasks in the 18 s since the reading at 2 s"


def test_one_line_per_period_without_a_terminal():
    out = io.StringIO()
    progress = LineProgress(out)
    progress.on_event(events.RunStarted(100.0, PLAN, ("read", "embed")))
    progress.on_event(gauges(100.5, 1))
    assert out.getvalue() == "", "a run of less than a second prints nothing"
    progress.on_event(gauges(110.0, 5))
    progress.on_event(gauges(120.0, 25))
    progress.on_event(gauges(130.0, 25, finished=True))
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "[   10.0 s] read 5 done, 3 queued, 2 in flight, 1 workers, –"
        " · embed 5 done, 3 queued, 2 in flight, 1 (+1 starting) workers, –"
    )
    assert "2.0/s" in lines[1]
    assert lines[2] == "[   30.0 s] read 25 done ✓ · embed 25 done ✓"


class Recorder(list):
    """An observer that remembers the events."""

    on_event = list.append


def test_the_live_table_is_cleared_for_logs(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stderr for a terminal
    inner = Recorder()
    live = LiveProgress(inner)
    printed = events.WorkerPrinted(0, "read-0", ("hello",))
    run = [
        events.RunStarted(100.0, PLAN, ("read", "embed")),
        gauges(100.2, 1),
        gauges(101.2, 11),
        printed,
        gauges(101.4, 12, finished=True),
        events.RunEnded(102.0, None),
    ]
    for event in run:
        live.on_event(event)
    assert inner == run
    text = capsys.readouterr().err
    assert "running for 0 s" in text
    assert "10.0/s" in text
    assert "read ✓" in text
