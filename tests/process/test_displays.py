"""What shows or logs a run cannot end it: the run goes on where nothing can be written, and where no stream is open."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from gpuexec import events
from gpuexec.driver.observers import Observers
from gpuexec.observe.progress import LiveProgress
from gpuexec.planning.model import Plan
from gpuexec.report.model import RunReport, StageReport
from tests.process.running import ROOT, local_executor, run_local
from tests.process.stages import Apply, items, same

SCRIPT = """
import os, sys, time
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.stages.displays import Noisy

{before}
try:
    executor = LocalExecutor(progress_interval_s=0.2)
    done = Pipeline("p", stages=[Noisy(0.05)]).run(executor, initial_tasks=items(*range(40)))
    told = f"{{len(done)}} tasks"
except BaseException as error:
    told = f"{{type(error).__name__}}: {{error}}"
Path(sys.argv[1]).write_text(told)
"""


def told_by(tmp_path: Path, redirection: str, before: str = "", **popen: object) -> str:
    """Run a noisy pipeline of 40 tasks with a shell's redirection; return what the driver says of it."""
    result = tmp_path / "result"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" "$2" {redirection}', sys.executable, SCRIPT.format(before=before), str(result)],
        cwd=ROOT,
        env=environment,
        check=False,
        timeout=60,
        **popen,
    )
    return result.read_text()


@pytest.mark.parametrize(
    "redirection",
    ["2>/dev/full", ">/dev/full 2>&1", "2>&1 | true", "2>&-", "<&- 2>&-", "<&- >&- 2>&-", ">&-", "<&-"],
)
def test_a_stream_that_cannot_be_written(tmp_path: Path, redirection: str):
    assert told_by(tmp_path, redirection) == "40 tasks"


@pytest.mark.parametrize(
    "before",
    [
        "sys.stdout = sys.stderr = None",
        "sys.stderr.close()",
        "os.close(2)",
        "for number in range(3): os.close(number)",
    ],
)
def test_a_stream_that_the_program_itself_has_closed(tmp_path: Path, before: str):
    assert told_by(tmp_path, "2>/dev/null", before) == "40 tasks"


def test_a_terminal_that_vanishes(tmp_path: Path):
    ours, theirs = pty.openpty()
    result = tmp_path / "result"
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=""), str(result)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"printed" not in (shown := shown + os.read(ours, 4096)):
            pass
    finally:
        os.close(ours)
        driver.wait(60)
    assert result.read_text() == "40 tasks"


def test_a_log_that_cannot_be_written(tmp_path: Path):
    def full(message: object) -> None:
        raise OSError(28, "No space left on device")

    handler = logger.add(full, level="WARNING", catch=False)
    try:
        ran = run_local([Apply(same)], items(1, 2))
        assert ran.data == [1, 2]
        executor = local_executor(on_task_failure="quarantine")
        assert executor.execute([Apply(refuse)], items(1, 2)) == []
    finally:
        logger.remove(handler)
    (note,) = [note for note in executor.last_report.notes if "could not show or log" in note]
    assert "OSError: [Errno 28] No space left on device" in note


def refuse(data: object) -> None:
    raise ValueError(f"not {data}")


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def on_event(self, event: events.RunEvent) -> None:
        self.calls += 1
        raise OSError("full")


class Recorder(list):
    on_event = list.append


def test_the_failure_of_an_observer_is_reported_once_and_to_the_others():
    failing, recorder = Failing(), Recorder()
    observers = Observers([failing, recorder])
    for at in range(3):
        observers.emit(events.RunEnded(at, None))
    notices = [event.text for event in recorder if isinstance(event, events.Noticed)]
    assert len(recorder) == 4
    assert len(notices) == 1
    assert notices[0].startswith("Failing could not show or log an event, and the run goes on")
    assert notices[0].endswith("OSError: full")
    assert failing.calls == 4, "the disk may have room again"


def test_without_a_table_the_log_goes_on(monkeypatch: pytest.MonkeyPatch):
    inner = Recorder()
    live = LiveProgress(inner, RunReport(stages=[StageReport(0, "s", "", 0)]))
    monkeypatch.setattr(live, "_draw", Failing().on_event)
    live.on_event(events.RunStarted(0.0, Plan(()), ("s",)))
    gauges = (events.StageGauges(1, 0, 0, 1, 0, finished=False),)
    with pytest.raises(OSError, match="full"):
        live.on_event(events.Gauged(1.0, gauges))
    live.on_event(events.Gauged(2.0, gauges))
    live.on_event(events.WorkerPrinted(0, "s-0", ("hello",)))
    assert len(inner) == 4
