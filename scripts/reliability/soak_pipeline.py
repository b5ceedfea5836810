"""The pipeline of the soak: payloads of all sizes, and stages that fail from time to time."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuexec import ProcessingStage, Resources, Task

KIB, MIB = 1024, 1024**2
RETRIED = 1 / 400  # fraction of the tasks whose first attempt raises
RETURNED = 1 / 20  # fraction of the tasks whose bytes are returned to the driver
_SLEEP_S = 0.008  # per task and stage; keeps the machine busy but not overloaded


@dataclass(repr=False)
class Blob(Task[np.ndarray]):
    """Random bytes. ``number``: position of the task; ``crc``: checksum of the original bytes."""

    number: int = -1
    crc: int = 0

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def endless(until: float) -> Iterator[Blob]:
    """Yield tasks without bytes until a time of the monotonic clock."""
    number = 0
    while time.monotonic() < until:
        yield Blob("soak", np.empty(0, np.uint8), number=number)
        number += 1


class Fill(ProcessingStage[Blob, Blob]):
    """Makes the bytes: mostly a few, sometimes 100 KiB, rarely some MiB."""

    name = "fill"
    resources = Resources(cpus=0.25)

    def process(self, task: Blob) -> Blob:
        rng = random.Random(task.number)
        share = rng.random()
        if share < 0.85:
            size = rng.randrange(1, 500)
        elif share < 0.98:
            size = 100 * KIB
        else:
            size = rng.randrange(1, 5) * MIB
        data = np.frombuffer(rng.randbytes(min(size, 64 * KIB)), np.uint8)
        made = Blob("soak", np.resize(data, size), number=task.number)
        made.crc = zlib.crc32(made.data)
        time.sleep(_SLEEP_S)
        return made


class Flaky(ProcessingStage[Blob, Blob]):
    """Raises at times, as a remote service would; a retry succeeds."""

    name = "flaky"
    batch_size = 4
    resources = Resources(cpus=0.25)

    def process_batch(self, tasks: list[Blob]) -> list[Blob]:
        time.sleep(_SLEEP_S * len(tasks))
        if random.random() < RETRIED * len(tasks):
            raise ConnectionError("the service is busy")
        return tasks

    def process(self, task: Blob) -> Blob:
        raise NotImplementedError


class Check(ProcessingStage[Blob, Blob]):
    """Compares the bytes with their checksum, and drops most of them."""

    name = "check"
    batch_size = 16
    resources = Resources(cpus=0.25)

    def process(self, task: Blob) -> Blob:
        if zlib.crc32(task.data) != task.crc:
            raise ValueError(f"task {task.number} is damaged")
        if task.number % round(1 / RETURNED):
            task.data = np.empty(0, np.uint8)
        return task
