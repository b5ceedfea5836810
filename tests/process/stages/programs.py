"""Stages for programs of many kinds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Resources
from tests.process.stages import Apply, Item, double, items
from tests.process.waiting import wait_until


def doubled_by_a_run(value: int) -> int:
    executor = LocalExecutor(show_progress=False, capsules=False)
    (task,) = Pipeline("inner", stages=[Apply(double)]).run(executor, initial_tasks=items(value))
    return task.data


def working_directory(value: object) -> tuple[str, int]:
    return str(Path.cwd()), os.getpid()


class Waits(ProcessingStage[Item, Item]):
    """Writes its pid to ``folder`` and waits for a go; with ``takes_over``, it changes its process first."""

    name = "waits"
    resources = Resources(cpus=0.25)

    def __init__(self, folder: Path, *, takes_over: bool = False) -> None:
        self.folder = folder
        self.takes_over = takes_over

    @property
    def at_work(self) -> Path:
        return self.folder / "at work"

    @property
    def go(self) -> Path:
        return self.folder / "go"

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        if self.takes_over:
            self.take_over()
        if not self.at_work.exists():  # what takes over may have left it without permissions
            self.at_work.write_text(str(os.getpid()))
        wait_until(self.go.exists, within_s=60)
        return task

    def take_over(self) -> None:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.umask(0o777)
        gone = self.folder / f"gone-{os.getpid()}"
        if not gone.exists():
            gone.mkdir(mode=0o700)
            os.chdir(gone)
            gone.rmdir()


class TearsDown(Waits):
    """Waits for nothing; writes its pid to ``folder`` when it begins to tear down, and a file when it has."""

    name = "tears_down"

    def process(self, task: Item) -> Item:
        return task

    def teardown(self) -> None:
        self.at_work.write_text(str(os.getpid()))
        time.sleep(1.5)
        (self.folder / "torn down").touch()
