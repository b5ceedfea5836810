"""Stages that change, multiply and drop tasks."""

from __future__ import annotations

from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item, items


class FanOut(ProcessingStage[Item, Item]):
    """Makes 0 to 3 items of each."""

    name = "fan_out"

    def process(self, task: Item) -> list[Item]:
        return items(*[(task.data, i) for i in range(task.data % 4)])


class DropOdd(ProcessingStage[Item, Item]):
    name = "drop_odd"
    batch_size = 3

    def process(self, task: Item) -> Item | None:
        return task if task.data[1] % 2 == 0 else None


class Step(ProcessingStage[Item, Item]):
    """Repeats, drops or changes tasks depending on their data; the results are arrays of ``size`` integers."""

    resources = Resources(cpus=0.25)

    def __init__(self, what: str, number: int, size: int, batch_size: int, workers: int | None) -> None:
        self.name = what
        self.number = number
        self.size = size
        self.batch_size = 1 if what == "repeat" else batch_size  # a fan-out from several inputs has random ids
        self.workers = workers

    def num_workers(self) -> int | None:
        return self.workers

    def process(self, task: Item) -> Item | list[Item] | None:
        value = int(task.data[0])
        match self.name:
            case "drop":
                return None if value % (self.number + 1) == 0 else task
            case "repeat":
                return [self.item(value + i) for i in range(value % (self.number + 2))]
            case _:
                return self.item(value * 3 + 1)

    def item(self, value: int) -> Item:
        import numpy as np

        return Item("step", np.full(self.size, value, np.int64))


class ReturnsText(ProcessingStage[Item, Any]):
    """Breaks the contract."""

    name = "text"

    def process(self, task: Item) -> str:
        return "done"


class CannotImport(ProcessingStage[Item, Item]):
    """Unpickling it imports a module that does not exist."""

    name = "cannot_import"

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__, ("a_module_that_is_not_there",))

    def process(self, task: Item) -> Item:
        return task
