"""Light stages that fan out, drop, fail and say where they run."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item, items

FAULTS = ("raise", "die", "raise once", "die once", "hang", "exit")


class Light(ProcessingStage[Item, Item]):
    """Makes of a list of pids a longer one. ``copies`` of each task; ``fault``: what it does about the task ``at``.

    A task holds (number, pids). The copies of a task are numbered after it.
    """

    resources = Resources(cpus=0.5)

    def __init__(
        self,
        name: str,
        copies: int = 1,
        fault: str = "",
        at: int = -1,
        folder: Path | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.copies = copies
        self.fault = fault
        self.at = at
        self.folder = folder
        self.seconds = seconds

    def process(self, task: Item) -> Item | list[Item] | None:
        number, pids = task.data
        if number == self.at:
            task.data = ("changed before it fails", ())
            self.fail(number)
        if self.seconds:
            time.sleep(self.seconds)
        pids = (*pids, os.getpid())
        if self.copies == 1:
            task.data = (number, pids)
            return task
        return items(*((number * 10 + n, pids) for n in range(self.copies))) or None

    def fail(self, number: int) -> None:
        if self.folder is not None:
            with (self.folder / "attempts").open("a") as out:
                out.write(f"{number}\n")
        how, _, once = self.fault.partition(" ")
        if once and self.folder is not None and (self.folder / "attempts").read_text().split().count(str(number)) > 1:
            return
        match how:
            case "raise":
                raise LookupError(f"no {number}")
            case "die":
                os._exit(7)
            case "hang":
                time.sleep(100)
            case "exit":
                sys.exit("no more")


class WithSetup(Light):
    """Has something to set up."""

    def setup(self, worker_metadata: Any = None) -> None:
        self.ready = True


class InBatches(Light):
    """Processes its tasks together."""

    batch_size = 4

    def process_batch(self, tasks: list[Item]) -> list[Any]:
        return [self.process(task) for task in tasks]


class Unpicklable(Light):
    """Returns something that cannot be pickled for the task ``at``."""

    def process(self, task: Item) -> Any:
        if task.data[0] == self.at:
            return items((self.at, (number for number in ())))  # a generator
        return super().process(task)


class Talks(Light):
    """Prints and logs."""

    def process(self, task: Item) -> Any:
        from loguru import logger

        print(f"{self.name} prints")
        logger.warning("{} logs", self.name)
        return super().process(task)


class Holds(Light):
    """Puts what cannot be pickled into a task."""

    def process(self, task: Item) -> Item:
        task.data = (*task.data, threading.Lock())
        return task


class LetsGo(Light):
    """Takes it out again, but for the task ``at``, about which it raises."""

    def process(self, task: Item) -> Item:
        task.data = task.data[:2]
        if task.data[0] == self.at:
            self.fail(self.at)
        return task


class Bulky(Light):
    """Makes so many bytes of one task that they are sent in several pieces."""

    def process(self, task: Item) -> list[Item]:
        return items(*((n, os.urandom(2000)) for n in range(300)))


class Forks(Light):
    """Comes back twice with the task ``at``, once in a child."""

    def process(self, task: Item) -> Item:
        if task.data[0] == self.at and (pid := os.fork()):
            os.waitpid(pid, 0)
        return task


class Notes(Light):
    """Writes down the numbers of its tasks."""

    def process(self, task: Item) -> Item:
        assert self.folder is not None
        with (self.folder / "numbers").open("a") as out:
            out.write(f"{task.data[0]}\n")
        return task


class DiesOnArrival:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _end_process, ()


def _end_process() -> None:
    os._exit(7)  # not named in __reduce__ itself: what coverage puts in its place cannot be pickled


class MakesDeadly(Light):
    """Makes of the task ``at`` two that end the process which unpickles them."""

    def process(self, task: Item) -> Any:
        return items(*[(0, DiesOnArrival())] * 2) if task.data[0] == self.at else task
