"""Stages that make, change and keep large arrays, and say so if they get anything else than what was sent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item

BYTES = 3 * 2**20


def uniform(value: int) -> np.ndarray:
    """Return a large array of one value."""
    return np.full(BYTES, value, np.uint8)


class _ArrayStage(ProcessingStage[Item, Item]):
    resources = Resources(cpus=0.25)
    fuse = False


class Make(_ArrayStage):
    """Makes an array of a number."""

    name = "make"

    def process(self, task: Item) -> Item:
        task.data = uniform(task.data)
        return task


class AddOne(_ArrayStage):
    """Adds one in place. At some values it spoils the array first and dies, or raises, the first time."""

    name = "add one"

    def __init__(self, folder: Path, dies_at: frozenset[int] = frozenset(), raises_at: frozenset[int] = frozenset()):
        self.folder, self.dies_at, self.raises_at = folder, dies_at, raises_at

    def process(self, task: Item) -> Item:
        value = int(task.data[0])
        if not (task.data == value).all():
            raise AssertionError("this is not what was sent")
        if value in self.dies_at | self.raises_at and not (self.folder / str(value)).exists():
            (self.folder / str(value)).touch()
            task.data[:] = 255
            if value in self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(value)
        task.data += 1
        return task


class Look(_ArrayStage):
    """Replaces an array by its value and whether it is writable, and keeps some of those it gets."""

    name = "look"
    reads_only = True

    def __init__(self, keep: frozenset[int] = frozenset()):
        self.keep = keep
        self.kept: list[tuple[int, np.ndarray]] = []

    def process(self, task: Item) -> Item:
        array, value = task.data, int(task.data[0])
        if value in self.keep:
            self.kept.append((value, array))
        for kept, earlier in (*self.kept, (value, array)):
            if not (earlier == kept).all():
                raise AssertionError(f"an array of {kept} has changed")
        task.data = value, bool(array.flags.writeable)
        return task
