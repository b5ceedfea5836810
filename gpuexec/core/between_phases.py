"""Where the outputs of a phase's last stage wait for the next phase: in memory up to the limits, then on disk.

Once a queue has outgrown memory, all that follows goes to disk, so that tasks leave in their order. A large payload is
written alone, as soon as it arrives, and its worker reads it from the file. Small ones are written together, with what
is known of their tasks, and come back together into the queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuexec.core.batch import Batch, Block, BlockSlice
from gpuexec.core.ports import Payloads
from gpuexec.core.stage import StageState
from gpuexec.records import MutableRecord
from gpuexec.units import MIB

if TYPE_CHECKING:
    from gpuexec.core.dispatch import QueueLimits

_TASK_BYTES = 640  # measured: what a task that waits in a block of its own takes in the driver, without its payload
_GROUP_BYTES = 1 * MIB  # of small payloads that are written and read together …
_GROUP_TASKS = 4096  # … or so many tasks


class _Tail(MutableRecord):
    """The last parts of a queue, which are to be written together."""

    parts: int = 0
    tasks: int = 0
    bytes: int = 0  # of memory


class BetweenPhases:
    """Decides block by block, as they arrive.

    ``running``: the stages of the present phase. ``ending``: the run ends early, so nothing is worth writing any more.
    """

    def __init__(self, limits: QueueLimits, payloads: Payloads) -> None:
        self._limits = limits
        self._group_bytes = min(_GROUP_BYTES, limits.bytes)
        self._payloads = payloads
        self._tails: defaultdict[int, _Tail] = defaultdict(_Tail)  # by the index of the stage that they wait for
        self.running: Sequence[StageState] = ()
        self.memory_is_short = False
        self.ending = False

    def place(self, block: Block, stage: StageState, batch: Batch, later: StageState) -> None:
        """Put an output of a stage's batch where it holds neither too much memory nor too many descriptors.

        It waits for the stage ``later``. The limit holds for all that does, together with what batches in flight have
        made so far (one batch may make more than there is memory) and what waits before the running stages. Raises
        ``SpillFailed``.
        """
        waiting, limits = later.queue, self._limits
        in_memory = sum(member.queue.bytes for running in self.running for member in running.members)
        in_memory += waiting.bytes + stage.memory_out + block.bytes
        in_memory += _TASK_BYTES * (len(waiting) + len(block))
        later.spills = later.spills or self.memory_is_short or in_memory > limits.bytes
        if later.spills and not self.ending:
            if block.in_segment or batch.memory_out + block.bytes > self._group_bytes:
                block.move(self._payloads.spill(block.payload), on_disk=True)
                later.spilled_bytes += block.bytes
                return
        elif block.in_segment and waiting.segments >= limits.segments:
            block.move(self._payloads.copy_out(block.payload))
        elif block.in_segment:
            self._payloads.trim(block.payload)
        batch.memory_out += block.bytes
        stage.memory_out += block.bytes

    def push(self, part: BlockSlice, later: StageState) -> None:
        """Put tasks of a batch that is complete at the end of a later stage's queue. Raises ``SpillFailed``."""
        block, start, stop = part
        later.queue.push(part)
        if not later.spills or self.ending:
            return
        tail = self._tails[later.spec.index]
        if block.in_segment:  # it came before memory was full, of a batch that has only now been completed
            self._tails[later.spec.index] = _Tail()
            return
        tail.parts += 1
        tail.tasks += stop - start
        tail.bytes += block.in_memory(stop - start)
        if tail.bytes >= self._group_bytes or tail.tasks >= _GROUP_TASKS:
            later.queue.put_away(tail.parts, self._payloads.put_away)
            later.spilled_bytes += tail.bytes
            self._tails[later.spec.index] = _Tail()
