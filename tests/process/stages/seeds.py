"""Stages that draw random numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage
from tests.process.stages import Item, die


def drawn(generators: str) -> list[float]:
    """Draw a number of each library; NumPy is imported for the first one of a process."""
    numbers = [random.random()]
    if "numpy" in generators:
        import numpy as np

        numbers.append(float(np.random.random()))
    return numbers


class Draws(ProcessingStage[Item, Item]):
    """Adds random numbers to each task. The worker dies when it first gets the item ``dies_at``."""

    name = "draws"

    def __init__(self, folder: Path | None = None, dies_at: Any = None, generators: str = "random numpy") -> None:
        self.folder = folder
        self.dies_at = dies_at
        self.generators = generators

    def setup(self, worker_metadata: Any = None) -> None:
        self.weight = random.random()

    def process(self, task: Item) -> Item:
        task.data = (task.data, self.weight, *drawn(self.generators))
        self._end_once(task.data[0])
        return task

    def _end_once(self, value: Any) -> None:
        if value == self.dies_at and self.folder is not None and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            die()


class DrawsTogether(Draws):
    """Adds the same random numbers to all tasks of a batch."""

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        numbers = drawn(self.generators)
        for task in tasks:
            task.data = (task.data, self.weight, *numbers)
        for task in tasks:
            self._end_once(task.data[0])
        return tasks


class RaisesWhatItDraws(ProcessingStage[Item, Item]):
    """Raises an error that says which numbers it has drawn."""

    name = "raises"

    def process(self, task: Item) -> Item:
        raise ArithmeticError(f"drew {drawn('random numpy')} for {task.data}")
