"""What the soak runs: payloads of all sizes through stages that fail now and then."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpuexec import ProcessingStage, Resources, Task

KIB, MIB = 1024, 1024**2
RETRIED = 1 / 400  # part of the tasks whose first attempt raises
RETURNED = 1 / 20  # part of the tasks whose payload comes back to the driver
_SLEEP_S = 0.008  # a task and stage: the machine is to be busy, not full


@dataclass(repr=False)
class Blob(Task[np.ndarray]):
    """Random bytes. ``number``: which task; ``crc``: of the bytes as they were made."""

    number: int = -1
    crc: int = 0

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def endless(until: float) -> Iterator[Blob]:
    """Tasks without bytes yet, until that time of the monotonic clock."""
    number = 0
    while time.monotonic() < until:
        yield Blob("soak", np.empty(0, np.uint8), number=number)
        number += 1


class Fill(ProcessingStage[Blob, Blob]):
    """Makes the bytes: mostly a few, at times 100 KiB, seldom some MiB."""

    name = "fill"
    resources = Resources(cpus=0.25)

    def process(self, task: Blob) -> Blob:
        dice = random.Random(task.number)
        kind = dice.random()
        if kind < 0.85:
            size = dice.randrange(1, 500)
        elif kind < 0.98:
            size = 100 * KIB
        else:
            size = dice.randrange(1, 5) * MIB
        data = np.frombuffer(dice.randbytes(min(size, 64 * KIB)), np.uint8)
        made = Blob("soak", np.resize(data, size), number=task.number)
        made.crc = zlib.crc32(made.data)
        time.sleep(_SLEEP_S)
        return made


class Flaky(ProcessingStage[Blob, Blob]):
    """Raises where a service would: another try passes."""

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
    """Compares the bytes with their checksum, and lets most of them go."""

    name = "check"
    batch_size = 16
    resources = Resources(cpus=0.25)

    def process(self, task: Blob) -> Blob:
        if zlib.crc32(task.data) != task.crc:
            raise ValueError(f"task {task.number} is damaged")
        if task.number % round(1 / RETURNED):
            task.data = np.empty(0, np.uint8)
        return task
