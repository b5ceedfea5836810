"""Stages with a known cost: time, memory or the size of what they make."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item
from tests.process.waiting import wait_until

MIB = 2**20


class Hoards(ProcessingStage[Item, Item]):
    """Keeps 200 MiB from its first batch on. A batch takes 50 ms, since memory is read every second."""

    name = "hoards"

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        self.hoard = b""

    def process(self, task: Item) -> Item:
        self.hoard = self.hoard or b"x" * (200 * MIB)
        time.sleep(0.05)
        return task


class Paced(ProcessingStage[Item, Item]):
    """Takes ``seconds`` for a task until ``enough`` workers of a stage are ready.

    It takes ``then`` instead, once as many workers of a stage as ``shift`` names are ready.
    """

    batch_size = 1

    def __init__(
        self,
        name: str,
        seconds: float,
        folder: Path,
        awaited: str,
        enough: int,
        then: float = 0.0,
        shift: tuple[str, int] | None = None,
        **resources: float,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.then = then
        self.shift = shift
        self.folder = folder
        self.awaited = (awaited, enough)
        self.resources = Resources(**{"cpus": 1.0, **resources})

    def setup(self, worker_metadata: Any = None) -> None:
        (self.folder / worker_metadata.worker_id).touch()

    def process(self, task: Item) -> Item:
        if not self.are_ready(*self.awaited):
            time.sleep(self.then if self.shift is not None and self.are_ready(*self.shift) else self.seconds)
        return task

    def are_ready(self, name: str, enough: int) -> bool:
        return len(list(self.folder.glob(f"{name}-*"))) >= enough


class PacedByOne(Paced):
    """Insists on one worker."""

    def num_workers(self) -> int:
        return 1


class Waits(ProcessingStage[Item, Item]):
    """Waits, after its first task, until a later stage has written a file."""

    name = "waits"
    resources = Resources(cpus=0.25)

    def __init__(self, path: Path) -> None:
        self.path = path

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        if task.data > 0:
            wait_until(self.path.exists)
        return task


class Touches(ProcessingStage[Item, Item]):
    name = "touches"
    resources = Resources(cpus=0.25)

    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self, task: Item) -> Item:
        self.path.touch()
        return task


class Fast(ProcessingStage[Item, Item]):
    """Makes one task of 1 MB for each it gets, and counts them in a file."""

    name = "fast"
    resources = Resources(cpus=0.25)

    def __init__(self, made: Path) -> None:
        self.made = made

    def process(self, task: Item) -> Item:
        import numpy as np

        with self.made.open("ab") as count:
            count.write(b".")
        task.data = np.full(1_000_000, task.data % 251, np.uint8)
        return task


class Slow(ProcessingStage[Item, Item]):
    """Takes so long for each task that the fast stage would run far ahead, if nothing held it back.

    Returns the task's sum, and how many tasks the fast stage was ahead.
    """

    name = "slow"
    resources = Resources(cpus=0.25)

    def __init__(self, made: Path) -> None:
        self.made = made

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        self.done = 0

    def process(self, task: Item) -> Item:
        ahead = self.made.stat().st_size - self.done
        self.done += 1
        checksum = sum(int(task.data.sum()) for _ in range(4))
        return Item("sum", (checksum // 4, ahead))


class MakesMany(ProcessingStage[Item, Item]):
    """Makes, in one batch, far more tasks than a queue or the table of open files holds."""

    name = "makes_many"

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size

    def process(self, task: Item) -> list[Item]:
        import numpy as np

        return [Item("many", np.full(self.size, i % 256, np.uint8)) for i in range(self.count)]


class Sums(ProcessingStage[Item, Item]):
    name = "sums"
    resources = Resources(cpus=0.5)

    def process(self, task: Item) -> Item:
        return Item("sum", int(task.data.sum()))


class Huge(ProcessingStage[Item, Item]):
    """Makes a task of 2.2 GB: more than 2**31 bytes, which some transports cannot carry."""

    size = 2_200_000_000

    name = "huge"

    def process(self, task: Item) -> Item:
        import numpy as np

        task.data = np.zeros(self.size, np.uint8)
        task.data[-1] = 7
        return task


class LengthAndLast(ProcessingStage[Item, Item]):
    name = "length_and_last"

    def process(self, task: Item) -> Item:
        return Item("ends", (len(task.data), int(task.data[-1])))
