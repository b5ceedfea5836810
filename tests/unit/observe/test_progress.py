"""The progress display, from events alone: rates, lines and the live table."""

from __future__ import annotations

import io
import logging

import pytest

from gpuexec import events
from gpuexec.observe.progress import LineProgress, LiveProgress
from gpuexec.planning.model import Plan
from gpuexec.report.builder import ReportBuilder

pyte = pytest.importorskip("pyte", reason="it emulates a terminal")

PLAN = Plan(())


def gauges(at: float, done: int, finished: bool = False) -> events.Gauged:
    return events.Gauged(at, tuple(events.StageGauges(done, 3, 2, 1, starting, finished) for starting in (0, 1)))


class Watched:
    """An observer of progress that gets the events after the report that it reads."""

    def __init__(self, make) -> None:
        self.builder = ReportBuilder()
        self.observer = make(self.builder.report)

    def on_event(self, event: events.RunEvent) -> None:
        self.builder.on_event(event)
        self.observer.on_event(event)


def test_one_line_per_period_without_a_terminal():
    out = io.StringIO()
    progress = Watched(lambda report: LineProgress(report, 10.0, out))
    progress.on_event(events.RunStarted(100.0, PLAN, ("read", "embed")))
    progress.on_event(gauges(100.5, 1))
    progress.on_event(gauges(109.5, 4))
    assert out.getvalue() == "", "the report needs gauges more often than lines are printed"
    progress.on_event(gauges(110.0, 5))
    progress.on_event(gauges(120.0, 25))
    progress.on_event(gauges(130.0, 25, finished=True))
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "[   10.0 s] read 5 done, 3 queued, 2 in flight, 1 worker, 0.42/s"
        " · embed 5 done, 3 queued, 2 in flight, 1 (+1 starting) workers, 0.42/s"
    )
    assert "1.2/s" in lines[1]
    assert lines[2] == "[   30.0 s] read 25 done ✓ · embed 25 done ✓"


class Recorder(list):
    """An observer that remembers the events."""

    on_event = list.append


class Screen:
    """A terminal of that size, emulated; ``stream`` is what a program writes to."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.parser = pyte.Stream(self.screen)
        self.stream = Terminal(self)

    def lines(self) -> list[str]:
        """The lines that have been scrolled away and those on the screen, without empty ones."""
        columns = self.screen.columns
        away = ["".join(row[x].data for x in range(columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in (*away, *self.screen.display) if line.strip()]


class Terminal(io.StringIO):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.screen.parser.feed(text.replace("\n", "\r\n"))
        return len(text)


def live_on(screen: Screen, monkeypatch, inner=None) -> Watched:
    live = Watched(lambda report: LiveProgress(Recorder() if inner is None else inner, report, screen.stream))
    monkeypatch.setattr(live.observer._region, "size", lambda: (screen.screen.columns, screen.screen.lines))
    return live


def test_the_live_table_shows_counts_and_rates(monkeypatch):
    inner, screen = Recorder(), Screen(80, 24)
    live = live_on(screen, monkeypatch, inner)
    run = [events.RunStarted(100.0, PLAN, ("read", "embed")), gauges(100.2, 1), gauges(101.2, 11)]
    for event in run:
        live.on_event(event)
    title, headings, read, embed = screen.lines()
    assert title == "running for 1 s"
    assert headings.split() == ["stage", "done", "queued", "in", "flight", "workers", "rate"]
    assert read.split() == ["read", "11", "3", "2", "1", "10.0/s"]
    assert "(+1 starting)" in embed
    live.on_event(gauges(101.4, 12, finished=True))
    assert "read ✓" in "\n".join(screen.lines())
    live.on_event(events.RunEnded(102.0, None))
    assert screen.lines() == []
    assert inner[:3] == run
    assert "write" not in vars(screen.stream), "the stream is as it was"


@pytest.mark.parametrize("columns", [12, 20, 40, 80, 133])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 10, 24])
def test_lines_stay_whole_and_nothing_of_the_table_remains_at_any_size(monkeypatch, columns, rows):
    screen = Screen(columns, rows)
    live = live_on(screen, monkeypatch)
    names = tuple(f"stage_with_a_long_name_{n}" for n in range(30))
    live.on_event(events.RunStarted(0.0, PLAN, names))
    written = []
    for turn in range(20):
        stages = tuple(events.StageGauges(turn * 10**n, 3, 2, 1, 1, n < turn) for n in range(30))
        live.on_event(events.Gauged(turn * 0.2, stages))
        lines = [f"{turn}.{n}" + "x" * 6 for n in range(turn % 3)]
        for line in lines:
            print(line, file=screen.stream)
        written += lines
    live.on_event(events.RunEnded(9.0, None))
    assert screen.lines() == written


def test_no_table_is_drawn_behind_a_line_that_goes_on(monkeypatch):
    screen = Screen(40, 10)
    live = live_on(screen, monkeypatch)
    live.on_event(events.RunStarted(0.0, PLAN, ("read", "embed")))
    live.on_event(gauges(0.2, 1))
    screen.stream.write("half ")
    live.on_event(gauges(0.4, 1))
    assert screen.lines() == ["half"]
    screen.stream.write("a line\n")
    live.on_event(gauges(0.6, 1))
    assert screen.lines()[:2] == ["half a line", "running for 1 s"]


def test_a_log_sink_that_holds_the_stream_writes_above_the_table(monkeypatch):
    screen = Screen(60, 10)
    live = live_on(screen, monkeypatch)
    handler = logging.StreamHandler(screen.stream)  # made before the table, as a program's log sinks are
    live.on_event(events.RunStarted(0.0, PLAN, ("read", "embed")))
    for number in range(30):
        live.on_event(gauges(0.2 * number, number))
        handler.emit(logging.makeLogRecord({"msg": f"warning {number}"}))
    live.on_event(gauges(7.0, 30))
    assert [line for line in screen.lines() if line.startswith("warning")] == [f"warning {n}" for n in range(30)]
    assert sum("running for" in line for line in screen.lines()) == 1


def test_a_terminal_that_is_gone_does_not_end_the_run(monkeypatch):
    screen = Screen(60, 10)
    live = live_on(screen, monkeypatch)

    def fails(text: str) -> int:
        raise OSError(5, "Input/output error")

    screen.stream.write = fails
    live.on_event(events.RunStarted(0.0, PLAN, ("read", "embed")))
    live.on_event(gauges(0.2, 1))
    live.on_event(events.RunEnded(1.0, None))


def test_a_terminal_that_cannot_show_a_character_gets_another_one_of_its_width(monkeypatch):
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii", errors="backslashreplace")
    live = Watched(lambda report: LiveProgress(Recorder(), report, out))
    live.on_event(events.RunStarted(0.0, PLAN, ("read", "embed")))
    live.on_event(gauges(0.2, 1, finished=True))
    text = written.getvalue().decode()
    assert "read ?" in text
    assert "\\u" not in text
