"""What chaos runs: five stages, 40 outputs a shard, each in a file of its own named by its task.

shards (source) → rows (fans out) → sift (filters) → score (batches) → store (sink)
"""

from __future__ import annotations

import os
import random
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from gpuexec import ProcessingStage, Resources, Task

SHARDS_PER_SEED = 5
ROWS_PER_SHARD = 48
DROPPED_EVERY = 6
OUTPUTS_PER_SEED = SHARDS_PER_SEED * (ROWS_PER_SHARD - ROWS_PER_SHARD // DROPPED_EVERY)
_SLEEP_S = 0.004  # a task and stage, on average: kills find workers at work
_CPUS = Resources(cpus=0.2)  # so that several workers of each fit on any machine


@dataclass(repr=False)
class Number(Task[int]):
    """A number, and the key of the shard it is from."""

    key: str = ""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True

    def get_deterministic_id(self) -> str | None:
        return self.key or None


def initial_tasks(count: int) -> list[Number]:
    """What a run begins with."""
    return [Number("chaos", number) for number in range(count)]


def expected(count: int) -> dict[str, str]:
    """What ``count`` seeds must become, file by file, by plain arithmetic."""
    files = {}
    for seed in range(count):
        for shard in range(seed * SHARDS_PER_SEED, (seed + 1) * SHARDS_PER_SEED):
            for row in range(ROWS_PER_SHARD):
                if row % DROPPED_EVERY:
                    value = shard * ROWS_PER_SHARD + row
                    files[f"0_{seed}_s{shard}_{row}_0_0_0"] = f"{value} {score(value)}\n"
    return files


def score(value: int) -> int:
    """Any function that depends on every bit."""
    return zlib.crc32(value.to_bytes(8, "little"))


def linger(tasks: int = 1) -> None:
    """Take some time, a random one."""
    time.sleep(random.uniform(0, 2 * _SLEEP_S) * tasks)


class Shards(ProcessingStage[Number, Number]):
    """Source: five shards of each seed, with ids made of their content."""

    name = "shards"
    is_source_stage = True
    resources = _CPUS

    def process(self, task: Number) -> list[Number]:
        linger()
        first = task.data * SHARDS_PER_SEED
        return [Number("chaos", shard, key=f"s{shard}") for shard in range(first, first + SHARDS_PER_SEED)]


class Rows(ProcessingStage[Number, Number]):
    """48 rows of each shard."""

    name = "rows"
    resources = _CPUS

    def process(self, task: Number) -> list[Number]:
        linger(4)
        first = task.data * ROWS_PER_SHARD
        return [Number("chaos", row) for row in range(first, first + ROWS_PER_SHARD)]


class Sift(ProcessingStage[Number, Number]):
    """Drops every sixth."""

    name = "sift"
    batch_size = 8
    resources = _CPUS

    def process(self, task: Number) -> Number | None:
        linger()
        return task if task.data % DROPPED_EVERY else None


class Score(ProcessingStage[Number, Number]):
    """Works on batches that mix shards."""

    name = "score"
    batch_size = 16
    resources = _CPUS

    def process_batch(self, tasks: list[Number]) -> list[Number]:
        linger(len(tasks))
        for task in tasks:
            task._metadata["score"] = score(task.data)
        return tasks

    def process(self, task: Number) -> Number:
        raise NotImplementedError


class Store(ProcessingStage[Number, Number]):
    """Sink: a file a task, there as a whole or not at all. A log a process tells what was written, again or not."""

    name = "store"
    batch_size = 4
    resources = _CPUS

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, task: Number) -> Number:
        linger()
        # The id a task comes with is that of the stage before; this stage will add its own "_0".
        name = f"{task.task_id}_0"
        target = Path(self.folder, "files", name)
        partial = target.with_name(f"{name}.partial")  # the same at every attempt, so none is left
        partial.write_text(f"{task.data} {task._metadata['score']}\n")
        partial.replace(target)
        with Path(self.folder, "writes", str(os.getpid())).open("a") as log:
            log.write(f"{name}\n")
        return task
