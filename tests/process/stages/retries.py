"""Stages that fail at some tasks, and count their attempts at them in files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage
from tests.process.stages import Apply, Item, die, return_lock

OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})


class Fragile(ProcessingStage[Item, Item]):
    """Calls ``end`` the first ``times`` it gets each of the items ``at``."""

    name = "fragile"

    def __init__(self, folder: Path, end: Callable[[], None], at: set[int], times: int = 1000) -> None:
        self.folder = folder
        self.end = end
        self.at = at
        self.times = times

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        log = self.folder / f"item {task.data}"
        with log.open("a") as out:
            out.write(f"{os.getpid()}\n")
        if task.data in self.at and len(self.attempts(task.data)) <= self.times:
            self.end()
        return Item(task.dataset_name, task.data * 2)

    def attempts(self, value: int) -> list[int]:
        """Return the pid of the process of each attempt at an item."""
        return [int(line) for line in (self.folder / f"item {value}").read_text().split()]


class Overwrites(Fragile):
    """Adds one to its input in place, and calls ``end`` the first time."""

    def process(self, task: Item) -> Item:
        task.data += 1
        first = not (self.folder / "been here").exists()
        (self.folder / "been here").touch()
        if first:
            self.end()
        return Item(task.dataset_name, task.data)


class DiesWhenTheCallerIsBusy(ProcessingStage[Item, Item]):
    """Doubles arrays, to a size that fits the input's segment; dies once, after one done while the caller is busy."""

    name = "doubles"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done_meanwhile = 0

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        if (self.folder / "caller is busy").exists() and not (self.folder / "died").exists():
            self.done_meanwhile += 1
            if self.done_meanwhile > 1:
                (self.folder / "died").touch()
                die()
        return Item("test", task.data[:20_000] * 2)


def lock_instead_of_three(value: int) -> Any:
    return return_lock(value) if value == 3 else value


class DiesInSetup(Apply):
    def setup(self, worker_metadata: Any = None) -> None:
        die()


class FailsOnNode(ProcessingStage[Item, Item]):
    """``setup_on_node`` dies or raises the first ``failures`` times; each task gets the number of its attempts."""

    name = "node"

    def __init__(self, folder: Path, failures: int, *, dies: bool) -> None:
        self.folder, self.failures, self.dies = folder, failures, dies

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        attempt = len(list(self.folder.iterdir()))
        (self.folder / str(attempt)).touch()
        if attempt < self.failures and self.dies:
            die()
        if attempt < self.failures:
            raise ConnectionError("no model")

    def process(self, task: Item) -> Item:
        task.data = len(list(self.folder.iterdir()))
        return task


class RaisesItsOwn(ProcessingStage[Item, Item]):
    """Raises, at item 1, an exception of a class that only its worker can import."""

    name = "own"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker_metadata: Any = None) -> None:
        (self.folder / "only_in_the_worker.py").write_text("class Boom(Exception): pass\n")
        sys.path.insert(0, str(self.folder))

    def process(self, task: Item) -> Item:
        import only_in_the_worker

        if task.data == 1:
            raise only_in_the_worker.Boom("bad task")
        return task


class Needs(ProcessingStage[Item, Item]):
    """Runs out of memory for more than ``limit`` tasks at once, after it has changed its inputs."""

    name = "needs"
    batch_size = 8

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def num_workers(self) -> int:
        return 1

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        outputs = []
        for task in tasks:
            task.data += 1
            outputs.append(Item(task.dataset_name, task.data))
        if len(tasks) > self.limit:
            raise OutOfMemoryError("CUDA out of memory")
        self._log_metric("calls", 1.0)
        return outputs

    def process(self, task: Item) -> Item:
        raise NotImplementedError


class NeedsMoreForThree(Needs):
    """Item 3 fits in no memory."""

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        if any(task.data == 3 for task in tasks):
            raise OutOfMemoryError("CUDA out of memory")
        return super().process_batch(tasks)
