"""A stage that is large, and tells what its worker needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpuexec import ProcessingStage
from tests.process.stages import Item


class Index:
    """A large attribute. ``pickled``: how often any was pickled in this process."""

    pickled = 0

    def __init__(self, size: int) -> None:
        self.values = np.ones(size, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        Index.pickled += 1
        return self.__dict__


class LooksUp(ProcessingStage[Item, Item]):
    """Return the worker's peak of resident memory, in bytes, and the sum of some of its index."""

    name = "looks_up"

    def __init__(self, size: int, workers: int) -> None:
        self.index = Index(size)
        self.workers = workers

    def num_workers(self) -> int:
        return self.workers

    def process(self, task: Item) -> Item:
        self.index.values[0] += 1  # its own, and writable
        task.data = (resident_peak_bytes(), int(self.index.values[1:11].sum()))
        return task


def resident_peak_bytes() -> int:
    """Return this process's peak of resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
