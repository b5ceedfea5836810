"""Where the outputs of a phase's last stage wait for the next phase: in memory up to the limits, then on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuexec.core.batch import Batch, Block
from gpuexec.core.ports import Payloads
from gpuexec.core.stage import StageState

if TYPE_CHECKING:
    from gpuexec.core.dispatch import QueueLimits


class BetweenPhases:
    """Decides block by block, as they arrive. ``ending``: the run ends early, so nothing is worth writing any more."""

    def __init__(self, limits: QueueLimits, payloads: Payloads) -> None:
        self._limits = limits
        self._payloads = payloads
        self.ending = False

    def place(self, block: Block, stage: StageState, batch: Batch, later: StageState, *, memory_is_short: bool) -> None:
        """Put an output of a stage's batch where it holds neither too much memory nor too many descriptors.

        It waits for the stage ``later``. What batches in flight have made so far counts too: one batch may make more
        than there is memory. Raises ``SpillFailed``.
        """
        waiting, limits = later.queue, self._limits
        full = memory_is_short or waiting.bytes + stage.memory_out + block.bytes > limits.bytes
        if full and not self.ending:
            block.move(self._payloads.spill(block.payload), on_disk=True)
            later.spilled_bytes += block.bytes
            return
        if block.in_segment:
            if waiting.segments >= limits.segments:
                block.move(self._payloads.copy_out(block.payload))
            else:
                self._payloads.trim(block.payload)
        batch.memory_out += block.bytes
        stage.memory_out += block.bytes
