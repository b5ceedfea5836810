"""Packs the caller's tasks into blocks, unpacks the blocks of results, and puts away those that wait."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from gpuexec.channel import codec
from gpuexec.channel.block_sizer import BlockSizer
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.segments import SegmentPool, read_segment
from gpuexec.channel.spill import SpillFiles
from gpuexec.core.batch import Block, place_among_siblings
from gpuexec.core.dispatch import Dispatcher
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.core.stage import StageState
from gpuexec.driver.initial_tasks import InitialTasks
from gpuexec.errors import ResultNotPicklable, StageNotPicklable
from gpuexec.naming import abbreviated


class InitialBlocks:
    """Feeds the caller's tasks to the core, as far as its first queue has space."""

    def __init__(self, tasks: InitialTasks, lineage: Lineage | NoLineage) -> None:
        self._tasks = tasks
        self._lineage = lineage
        self._pool = SegmentPool()
        self._encoder = codec.Encoder()
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
        self._tasks.read_ahead(wanted if dispatcher.hold_sources else None)
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

    def close(self) -> None:
        """Release the segments kept for reuse."""
        self._pool.close()


class StoredPayloads:
    """Implements ``core.ports.Payloads``. ``spill_folder``: for what waits between phases, if there are several."""

    def __init__(self, spill_folder: str | None) -> None:
        self._files = SpillFiles(spill_folder) if spill_folder is not None else None

    def unpack(self, stage: StageState, block: Block) -> list[Any]:
        """Return the tasks of a block of the last stage. Raises ``ResultNotPicklable``."""
        try:
            tasks: list[Any] = load(block.payload)
        except Exception as error:
            raise ResultNotPicklable(
                f"task {abbreviated(block.task_ids)} returned by stage {stage.spec.name!r} was pickled but cannot be "
                f"unpickled here: {type(error).__name__}: {error}"
            ) from error
        return tasks

    def copy_out(self, payload: Payload) -> Payload:
        """Return the payload in memory of this process."""
        return read_segment(payload) if isinstance(payload, SegmentRef) else payload

    def trim(self, payload: Payload) -> None:
        """Give back the memory that a segment has beyond its payload: it may have carried a larger one before."""
        if isinstance(payload, SegmentRef) and payload.exclusive:
            payload.segment.trim(payload.length)

    def spill(self, payload: Payload) -> Payload:
        """Return the payload in a file. Raises ``SpillFailed``."""
        assert self._files is not None, "nothing waits for a later phase where there is only one"
        return self._files.store(payload)

    def finish_phase(self) -> None:
        """Note that no more will be added to what has been spilled. Raises ``SpillFailed`` if the disk failed to."""
        if self._files is not None:
            self._files.finish_file()

    def close(self) -> None:
        """Let go of the files that are being written."""
        if self._files is not None:
            self._files.close()


def _unsendable_task(tasks: Sequence[Any], numbers: Sequence[int], error: Exception) -> StageNotPicklable:
    """Return the error that names the task which cannot be pickled."""
    for number, task in zip(numbers, tasks, strict=True):
        try:
            codec.encode(task)
        except Exception as its_error:  # noqa: BLE001 - whatever pickling raises, this task is at fault
            return StageNotPicklable(f"initial task {number} ({task!r}) cannot be sent to a worker: {its_error}")
    return StageNotPicklable(f"initial tasks from {numbers[0]} on cannot be sent to a worker: {error}")
