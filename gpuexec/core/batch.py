"""Blocks and batches: tasks by reference. The core never looks into one.

A block is the unit of transport: tasks pickled together, the outputs of one batch or some of the caller's tasks. A
batch is the unit of work: the tasks one call of ``process_batch`` gets. Batches are cut from blocks in order, so a
block may be dealt out in slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuexec.channel.payload import Payload, SegmentRef

if TYPE_CHECKING:
    from gpuexec.channel.messages import Failed
    from gpuexec.core.attempts import BatchLifecycle
    from gpuexec.core.stage import StageState

BlockSlice = tuple["Block", int, int]  # the tasks of a block from, up to
OrderedTask = tuple[bytes, Any]  # a finished task after its place in the order of results


@dataclass(slots=True, eq=False)
class Block:
    """Tasks in one payload.

    ``in_segment``: the payload holds a descriptor of shared memory. ``on_disk``: it takes no memory. ``paths``: each
    task's place in the order of results. It is made of its ancestors' positions among their siblings, so that sorting
    by it gives the order of one process doing everything in turn. ``sources``: the source that each task descends from,
    where a checkpoint is kept.
    ``goes_to``: the index of the stage that its tasks wait for, of outputs that did not pass all stages of their group;
    ``None`` for the first stage of the next group.
    """

    payload: Payload
    task_ids: list[str]
    paths: list[bytes]
    queued_at: float
    sources: list[int] | None = None
    goes_to: int | None = None
    bytes: int = field(init=False)
    in_segment: bool = field(init=False)
    on_disk: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        payload = self.payload
        if isinstance(payload, SegmentRef):
            self.bytes, self.in_segment = payload.length, True
        else:
            self.bytes, self.in_segment = len(payload), False

    def __len__(self) -> int:
        return len(self.task_ids)

    def move(self, payload: Payload, *, on_disk: bool = False) -> None:
        """Replace the payload by the same bytes elsewhere. It must not be in a queue."""
        self.payload = payload
        self.in_segment = isinstance(payload, SegmentRef) and not on_disk
        self.on_disk = on_disk

    def in_memory(self, count: int) -> int:
        """Return the bytes of memory that ``count`` of its tasks take, on average."""
        return 0 if self.on_disk else self.share(count)

    def share(self, count: int) -> int:
        """Return the bytes of ``count`` of its tasks, on average."""
        total = len(self.task_ids)
        return self.bytes if count == total else self.bytes * count // total


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks for one call of a stage, and the outputs so far. ``lifecycle``: only if it has failed before.

    In a group of fused stages the tasks go one by one through its stages, from ``stage`` on. ``stops_before``: the
    index of the stage at which the outputs go back to the driver, ``None`` to pass all of them. ``failures``: what the
    stages raised about tasks on their way, by the number of the output that stands for the task.
    """

    batch_id: int
    stage: StageState
    slices: list[BlockSlice]
    size: int
    input_bytes: int
    segments: int  # that its payloads lie in
    queued_s: float  # summed over its tasks
    sent_at: float = 0.0
    outputs: list[BlockSlice] = field(default_factory=list)  # whole blocks
    tasks_out: int = 0  # in the outputs
    memory_out: int = 0  # bytes of memory that the outputs take, if they are for a later phase
    parents: list[int] = field(default_factory=list)  # of each output task; kept only for a checkpoint
    lifecycle: BatchLifecycle | None = None
    requeued: bool = False  # it was in flight before, at a worker that failed
    not_before: float = 0.0  # it waits until then for its next attempt
    stops_before: int | None = None
    failures: dict[int, Failed] = field(default_factory=dict)
    segments_kept: list[SegmentRef] = field(default_factory=list)  # that are nobody's once it is complete

    @classmethod
    def cut(cls, batch_id: int, stage: StageState, slices: list[BlockSlice], now: float) -> Batch:
        """Make a batch of these slices, for a stage."""
        size = input_bytes = segments = 0
        queued_s = 0.0
        for block, start, stop in slices:
            count = stop - start
            size += count
            input_bytes += block.share(count)
            queued_s += (now - block.queued_at) * count
            segments += block.in_segment
        return cls(batch_id, stage, slices, size, input_bytes, segments, queued_s)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """Ids of its tasks, in order."""
        return tuple(task_id for block, start, stop in self.slices for task_id in block.task_ids[start:stop])

    def first_task_ids(self, most: int) -> tuple[str, ...]:
        """Return the ids of its first tasks, as far as they come in one block."""
        block, start, stop = self.slices[0]
        return tuple(block.task_ids[start : min(stop, start + most)])

    def sources(self) -> list[int]:
        """Return the source that each of its tasks descends from; nothing where no checkpoint is kept."""
        return [s for block, start, stop in self.slices for s in (block.sources or ())[start:stop]]

    def paths(self) -> list[bytes]:
        """Return its tasks' places in the order of results."""
        (block, start, stop), *others = self.slices
        paths = block.paths[start:stop]
        for block, start, stop in others:
            paths += block.paths[start:stop]
        return paths

    def route(self) -> list[int]:
        """Return the stages of its group that it goes through, as positions in it: from, and up to but without."""
        lead = self.stage.lead
        end = lead.spec.index + len(lead.members) if self.stops_before is None else self.stops_before
        return [self.stage.spec.index - lead.spec.index, end - lead.spec.index]

    def singles(self) -> list[BlockSlice]:
        """Return its tasks, each by itself."""
        return [(block, at, at + 1) for block, start, stop in self.slices for at in range(start, stop)]

    def discard_progress(self) -> None:
        """Drop what it has made: it left its worker unfinished."""
        self.outputs, self.tasks_out = [], 0
        self.parents.clear()
        self.failures.clear()
        self.segments_kept.clear()


_ONE_BYTE = tuple(bytes([number]) for number in range(0x80))


def place_among_siblings(number: int) -> bytes:
    """Encode a position so that the bytes sort as the numbers do and none is a prefix of another."""
    if number < 0x80:
        return _ONE_BYTE[number]
    length = (number.bit_length() + 7) // 8
    return bytes([0x7F + length]) + number.to_bytes(length, "big")


def output_paths(inputs: Sequence[bytes], parents: Sequence[int], made: int) -> list[bytes]:
    """Return the places of outputs in the order of results: after their parents', in the order they were made.

    ``inputs``: the places of the batch's inputs. ``parents``: the index of each output's input, -1 if unknown.
    ``made``: how many outputs the batch has already.
    """
    if len(parents) == 1:  # most blocks of tiny batches; a list comprehension would take twice as long
        return [(inputs[parents[0]] if parents[0] >= 0 else min(inputs)) + place_among_siblings(made)]
    return [
        (inputs[parent] if parent >= 0 else min(inputs)) + place_among_siblings(number)
        for number, parent in enumerate(parents, made)
    ]
