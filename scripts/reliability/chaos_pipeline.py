"""The pipeline of chaos: five stages, 40 outputs per shard, each in a file of its own, named by its task.

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

SHARDS_PER_TASK = 5
ROWS_PER_SHARD = 48
DROPPED_EVERY = 6
OUTPUTS_PER_TASK = SHARDS_PER_TASK * (ROWS_PER_SHARD - ROWS_PER_SHARD // DROPPED_EVERY)
_SLEEP_S = 0.004  # per task and stage, on average, so that kills hit working workers
_CPUS = Resources(cpus=0.2)  # so that several workers of each stage fit on any machine


@dataclass(repr=False)
class Number(Task[int]):
    """A number. ``key``: the deterministic id of a shard, "" for other tasks."""

    key: str = ""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True

    def get_deterministic_id(self) -> str | None:
        return self.key or None


def initial_tasks(count: int) -> list[Number]:
    """Return the tasks a run starts from."""
    return [Number("chaos", number) for number in range(count)]


def expected(count: int) -> dict[str, str]:
    """Return the content of every file that ``count`` initial tasks must lead to, by plain arithmetic."""
    files = {}
    for number in range(count):
        for shard in range(number * SHARDS_PER_TASK, (number + 1) * SHARDS_PER_TASK):
            for row in range(ROWS_PER_SHARD):
                if row % DROPPED_EVERY:
                    value = shard * ROWS_PER_SHARD + row
                    files[f"0_{number}_s{shard}_{row}_0_0_0"] = f"{value} {score(value)}\n"
    return files


def score(value: int) -> int:
    """Return a value that depends on every bit of the argument."""
    return zlib.crc32(value.to_bytes(8, "little"))


def sleep(tasks: int = 1) -> None:
    """Sleep for a random time, proportional to the number of tasks."""
    time.sleep(random.uniform(0, 2 * _SLEEP_S) * tasks)


class Shards(ProcessingStage[Number, Number]):
    """Source: makes five shards of each initial task, with ids made from their content."""

    name = "shards"
    is_source_stage = True
    resources = _CPUS

    def process(self, task: Number) -> list[Number]:
        sleep()
        first = task.data * SHARDS_PER_TASK
        return [Number("chaos", shard, key=f"s{shard}") for shard in range(first, first + SHARDS_PER_TASK)]


class Rows(ProcessingStage[Number, Number]):
    """Makes 48 rows of each shard."""

    name = "rows"
    resources = _CPUS

    def process(self, task: Number) -> list[Number]:
        sleep(4)
        first = task.data * ROWS_PER_SHARD
        return [Number("chaos", row) for row in range(first, first + ROWS_PER_SHARD)]


class Sift(ProcessingStage[Number, Number]):
    """Drops every sixth row."""

    name = "sift"
    batch_size = 8
    resources = _CPUS

    def process(self, task: Number) -> Number | None:
        sleep()
        return task if task.data % DROPPED_EVERY else None


class Score(ProcessingStage[Number, Number]):
    """Adds the score, in batches that mix shards."""

    name = "score"
    batch_size = 16
    resources = _CPUS

    def process_batch(self, tasks: list[Number]) -> list[Number]:
        sleep(len(tasks))
        for task in tasks:
            task._metadata["score"] = score(task.data)
        return tasks

    def process(self, task: Number) -> Number:
        raise NotImplementedError


class Store(ProcessingStage[Number, Number]):
    """Sink: writes a file per task, whole or not at all. Each process logs every name it writes, repeated ones too."""

    name = "store"
    is_sink_stage = True
    batch_size = 4
    resources = _CPUS

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, task: Number) -> Number:
        sleep()
        # The task still has the id from the stage before; the executor will append "_0" for this stage.
        name = f"{task.task_id}_0"
        target = Path(self.folder, "files", name)
        partial = target.with_name(f"{name}.partial")  # the same name at every attempt, so none is left over
        partial.write_text(f"{task.data} {task._metadata['score']}\n")
        partial.replace(target)
        with Path(self.folder, "writes", str(os.getpid())).open("a") as log:
            log.write(f"{name}\n")
        return task
