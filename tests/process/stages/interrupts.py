"""Stages that the tests of signals send to a driver in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from gpuexec import ProcessingStage
from tests.process.stages import Item
from tests.process.waiting import wait_until


class WaitsForGo(ProcessingStage[Item, Item]):
    """Is at its first batch until the file ``go`` exists."""

    name = "waits_for_go"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        (self.folder / "at work").touch()
        wait_until((self.folder / "go").exists)
        return task

    def teardown(self) -> None:
        (self.folder / "torn down").touch()


class Endless(ProcessingStage[Item, Item]):
    """Processes a task for as long as no file ``go`` is in the folder."""

    name = "endless"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> Item:
        (self.folder / "at work").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.01)
        return task
