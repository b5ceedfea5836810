"""Stages of the tests of run folders."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Task
from tests.process.stages import Item, items


class Says(ProcessingStage[Item, Item]):
    """Prints a line and logs one for each item."""

    name = "says"

    def process(self, task: Item) -> Item:
        import logging

        print(f"printed {task.data}")
        logging.getLogger("tests").warning("logged %s", task.data)
        return task


class Fans(ProcessingStage[Item, Item]):
    """Makes two items of each."""

    name = "fans"

    def process(self, task: Item) -> list[Item]:
        return items(task.data, task.data)


class Endless(ProcessingStage[Task[Any], Item]):
    """Takes half a second for every item, and says in a file that it has begun the fourth."""

    name = "endless"

    def __init__(self, flag: str) -> None:
        self.flag = flag
        self.done = 0

    def process(self, task: Item) -> Item:
        self.done += 1
        if self.done == 4:
            Path(self.flag).touch()
        print(f"at {task.data}", flush=True)
        time.sleep(0.5)
        return task


def remove(folder: str) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":  # a program that a test kills
    state, flag = sys.argv[1:]
    os.environ["XDG_STATE_HOME"] = state
    Pipeline("killed", stages=[Endless(flag)]).run(LocalExecutor(), initial_tasks=items(*range(1000)))
