"""A pipeline whose service times are known, and so its best batch size."""

from __future__ import annotations

import time
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources, Task

ITEMS = 32
# The executor adds some milliseconds to a batch. The times are well above that, and the sizes beside the best one are
# 23 % slower, so that the planted best is the real one.
BATCH_S, ITEM_S, LARGE_S = 0.060, 0.002, 0.00375


class Item(Task[int]):
    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def batch_s(size: int) -> float:
    """Seconds of a batch: a part for the batch, one for each item, and one that grows with the square of its size."""
    return BATCH_S + ITEM_S * size + LARGE_S * size * size


def best_size(sizes: list[int]) -> int:
    """The size of which an item takes the shortest time."""
    return min(sizes, key=lambda size: batch_s(size) / size)


class Source(ProcessingStage[Any, Item]):
    name = "source"
    fuse = False
    resources = Resources(cpus=0.1)

    def process(self, task: Any) -> list[Item]:  # noqa: ARG002
        return [Item("known", number) for number in range(ITEMS)]


class Known(ProcessingStage[Item, Item]):
    name = "known"
    fuse = False
    batch_size = 1
    resources = Resources(cpus=0.1)

    def num_workers(self) -> int:
        return 1

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        time.sleep(batch_s(len(tasks)))
        return tasks

    def process(self, task: Item) -> Item:
        return task


def make() -> Pipeline:
    return Pipeline("known", stages=[Source(), Known()])
