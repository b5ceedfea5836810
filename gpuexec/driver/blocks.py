"""Packs the caller's tasks into blocks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from typing import Any

from gpuexec.channel import codec
from gpuexec.channel.block_sizer import BlockSizer
from gpuexec.channel.payload_store import store
from gpuexec.channel.segments import SegmentPool
from gpuexec.core.batch import Block, place_among_siblings
from gpuexec.core.dispatch import Dispatcher
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.driver.initial_tasks import InitialTasks
from gpuexec.errors import StageNotPicklable


class InitialBlocks:
    """Feeds the caller's tasks to the core, as far as its first queue has space. ``pool``: what to write them to."""

    def __init__(
        self,
        tasks: InitialTasks,
        lineage: Lineage | NoLineage,
        announced: Collection[str] = frozenset(),
        *,
        pool: SegmentPool,
    ) -> None:
        self._tasks = tasks
        self._lineage = lineage
        self._pool = pool
        self._encoder = codec.Encoder(announced=announced)
        self._sizer = BlockSizer()
        self._numbers = itertools.count()

    @property
    def tasks_left(self) -> int | None:
        """Initial tasks that are not read yet; ``None`` if unknown."""
        return self._tasks.left

    def feed(self, dispatcher: Dispatcher) -> None:
        """Put tasks before the first stage. Raises ``StageNotPicklable``, and whatever the caller's iterator raises."""
        while wanted := self._wanted(dispatcher):
            tasks = self._tasks.take(min(wanted, self._sizer.next()))
            if tasks is None:
                dispatcher.end_of_initial_tasks()
            if not tasks:
                return
            numbers = list(itertools.islice(self._numbers, len(tasks)))
            tasks, numbers, sources = self._lineage.admit_initial_tasks(tasks, numbers)
            if tasks:
                dispatcher.add_block(self._pack(tasks, numbers, sources))

    def _wanted(self, dispatcher: Dispatcher) -> int:
        wanted = dispatcher.initial_tasks_wanted()
        self._tasks.read_ahead(wanted if dispatcher.hold.is_on else None)
        return wanted

    def _pack(self, tasks: list[Any], numbers: list[int], sources: list[int] | None) -> Block:
        try:
            encoded = self._encoder.encode(tasks)
            payload = store(encoded, self._pool)
        except Exception as error:
            raise _unsendable_task(tasks, numbers, error) from error
        self._sizer.learn(len(tasks), encoded.size)
        paths = [place_among_siblings(number) for number in numbers]
        return Block(payload, [task.task_id for task in tasks], paths, time.monotonic(), sources)


def _unsendable_task(tasks: Sequence[Any], numbers: Sequence[int], error: Exception) -> StageNotPicklable:
    """Return the error that names the task which cannot be pickled."""
    for number, task in zip(numbers, tasks, strict=True):
        try:
            codec.encode(task)
        except Exception as its_error:  # noqa: BLE001 - whatever pickling raises, this task is at fault
            return StageNotPicklable(f"initial task {number} ({task!r}) cannot be sent to a worker: {its_error}")
    return StageNotPicklable(f"initial tasks from {numbers[0]} on cannot be sent to a worker: {error}")
