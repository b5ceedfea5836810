"""Events of a run for the tests of what shows it, and names that try to break what shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuexec import events
from gpuexec.channel.messages import LogLine
from gpuexec.live.observer import LiveObserver
from gpuexec.planning.model import Plan
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.run_folder import RunFolder, folder_name
from gpuexec.report.store import RunFolderReader
from gpuexec.run_facts import RunFacts

NASTY_NAMES = ("two\nlines", "[bold]not bold[/bold] [/", "🦊" * 20, "x" * 300, "\x1b[2Jescape", "</script><b>")

_MOMENT = 1_795_959_538.0


def wait_for(happened: Callable[[], object], within_s: float = 100.0) -> None:
    """Return once ``happened()`` is true; another thread makes it so."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.002)


class ServedRun:
    """A run made of events, served in ``folder``."""

    def __init__(self, folder: Path, names: Sequence[str] = ("read", "embed"), pipeline: str = "p") -> None:
        self.builder = ReportBuilder()
        self.names = names
        self.at = 100.0
        started = events.RunStarted(
            self.at, Plan(()), tuple(names), RunFacts(run_id="abc123", pipeline=pipeline), time.time()
        )
        self.builder.on_event(started)
        self.observer = LiveObserver(started, self.builder.report)
        for index, name in enumerate(names):
            self.emit(events.WorkerStarted(self.at, index, f"{name}-0", 4000 + index, "first", gpus=("GPU-a",)))
            self.emit(events.WorkerReady(self.at, index, f"{name}-0", 0.1))
        self.observer.open_in(folder)

    @property
    def server(self):
        return self.observer._server

    def emit(self, event: events.RunEvent) -> None:
        self.builder.on_event(event)
        self.observer.on_event(event)

    def gauge(self, done: int = 10, total: int = 100) -> None:
        """Let a second pass."""
        self.at += 1
        stage = events.StageGauges(done, total - done, 0, 1, 0, finished=False, made=done)
        self.emit(events.Gauged(self.at, (stage,) * len(self.names), tasks_left=0))

    def print(self, *lines: str) -> None:
        self.emit(events.WorkerPrinted(0, f"{self.names[0]}-0", lines))

    def log(self, text: str, level: str = "WARNING") -> None:
        line = LogLine(level, 30, text, time.time(), "module", "function", 1)
        self.emit(events.WorkerLogged(1, f"{self.names[1]}-0", line))

    def end(self, error: str | None = None) -> None:
        self.emit(events.RunEnded(self.at, error))


class LiveRun:
    """A run that goes on in a folder of ``parent``."""

    def __init__(self, parent: Path, pipeline: str, run_id: str, at: float = 0.0) -> None:
        self.folder = RunFolder(parent, folder_name(pipeline, run_id, _MOMENT + at))
        self.served = ServedRun(self.folder.path, pipeline=pipeline)

    @property
    def reader(self) -> RunFolderReader:
        return RunFolderReader(self.folder.path)

    def end(self) -> None:
        self.served.end()
        self.folder.close()
