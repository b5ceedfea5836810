"""A pipeline that reads parts, pairs them up and stores them, with a fault at one item that a file turns on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gpuexec import FailedTask, ProcessingStage
from tests.process.stages import Item, die, hang, items

AT_FAULT = "p4-1"
FAULT = "fault"  # the file that says what happens at this item; to remove it is to repair the node


@dataclass(repr=False)
class Part(Item):
    """Its id comes from its content."""

    def get_deterministic_id(self) -> str:
        return str(self.data)


class Parts(ProcessingStage[Item, Part]):
    """Source: the parts that a file names, in its order."""

    name = "parts"
    is_source_stage = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> list[Part]:
        return [Part("test", word) for word in (self.folder / "order").read_text().split()]


class Pair(ProcessingStage[Part, Item]):
    """Makes two items of each part, and none of the part ``dropped``."""

    name = "pair"

    def __init__(self, dropped: int = 3) -> None:
        self.dropped = dropped

    def process(self, task: Part) -> list[Item] | None:
        return None if task.data == f"p{self.dropped}" else items(f"{task.data}-0", f"{task.data}-1")


class Faulty(ProcessingStage[Item, Item]):
    """Fails at the item at fault, in the way that the file says, while there is one."""

    name = "faulty"

    def __init__(self, folder: Path, batch_size: int = 1) -> None:
        self.folder = folder
        self.batch_size = batch_size

    def process(self, task: Item) -> Item | FailedTask:
        fault = self.folder / FAULT
        if task.data == AT_FAULT and fault.exists():
            return self.fail(fault.read_text(), task)
        return task

    def fail(self, how: str, task: Item) -> Item | FailedTask:
        if how.startswith("once "):
            (self.folder / FAULT).unlink()
        match how.removeprefix("once "):
            case "raise":
                raise LookupError(f"no {task.data}")
            case "give-up":
                return FailedTask()
            case "die":
                die()
            case "wait":
                (self.folder / "waits").write_text(str(os.getpid()))
                hang()
        return task


class Store(ProcessingStage[Item, Item]):
    """Sink: writes a file named by the task's id, and a line to a log for each write."""

    name = "store"
    is_sink_stage = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> Item:
        (self.folder / "out" / task.task_id).write_text(str(task.data))
        with (self.folder / "writes").open("a") as log:
            log.write(f"{task.data}\n")
        return task


class Shuffle(ProcessingStage[Item, Item]):
    name = "shuffle"
    is_resumable = False

    def process(self, task: Item) -> Item:
        return task


class Gather(ProcessingStage[Item, Item]):
    """Makes one task of each batch, which descends from all of it; the one with the item at fault fails."""

    name = "gather"
    batch_size = 4

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process_batch(self, tasks: list[Item]) -> list[Item | FailedTask]:
        gathered = " ".join(task.data for task in tasks)
        if (self.folder / FAULT).exists() and AT_FAULT in gathered:
            return [FailedTask()]
        return items(gathered)

    def process(self, task: Item) -> Item:
        raise NotImplementedError


def refuse(name: str) -> None:
    raise ValueError(f"cannot read {name}")
