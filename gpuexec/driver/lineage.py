"""Which source each task descends from, for the checkpoint: only runs that keep one pay for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.core.queue import Block, BlockSlice
from gpuexec.driver.state import Batch, StageSpec, StageState, Worker

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint

_BY_STAGE = "a stage returned a FailedTask"


class Lineage:
    """Tells the checkpoint what becomes of every task.

    Sources are the outputs of the stage marked as source; where none is, the caller's tasks.
    """

    def __init__(self, checkpoint: Checkpoint, specs: Sequence[StageSpec]) -> None:
        self.checkpoint = checkpoint
        self._source_stage = next((spec.index for spec in specs if spec.is_source), -1)
        self._last_stage = len(specs) - 1

    def admit_initial_tasks(
        self, tasks: list[Any], numbers: list[int]
    ) -> tuple[list[Any], list[int], list[int] | None]:
        """Drop the caller's tasks that are done, where they are the sources; return tasks, numbers and sources."""
        if self._source_stage >= 0:
            return tasks, numbers, None
        admitted = [(task, n, self.checkpoint.admit(task.task_id)) for task, n in zip(tasks, numbers, strict=True)]
        kept = [(task, n, source) for task, n, source in admitted if source is not None]
        return [task for task, _, _ in kept], [n for _, n, _ in kept], [source for _, _, source in kept]

    def completed(self, stage: StageState, batch: Batch) -> list[BlockSlice]:
        """Account for a complete batch; return what of its outputs goes on."""
        index = stage.spec.index
        if index < self._source_stage:
            return [(block, 0, len(block.task_ids)) for block in batch.outputs]
        ends = index == self._last_stage
        if index == self._source_stage:
            slices = [block_slice for block in batch.outputs for block_slice in self._admit(block)]
            if ends:
                admitted = [source for block, start, stop in slices for source in _sources(block)[start:stop]]
                if admitted:  # an earlier run may have done all of them
                    self.checkpoint.batch_done(admitted, (), ends=True)
            return slices
        sources = iter(self.checkpoint.batch_done(batch.sources(), batch.parents, ends=ends))
        for block in batch.outputs:
            block.sources = [next(sources) for _ in block.task_ids] if not ends else None
        return [(block, 0, len(block.task_ids)) for block in batch.outputs]

    def _admit(self, block: Block) -> list[BlockSlice]:
        """The runs of a parcel's tasks that an earlier run has not done."""
        admitted = [self.checkpoint.admit(task_id) for task_id in block.task_ids]
        block.sources = [-1 if source is None else source for source in admitted]
        slices: list[BlockSlice] = []
        for at, source in enumerate(admitted):
            if source is None:
                continue
            if slices and slices[-1][2] == at:
                slices[-1] = (block, slices[-1][1], at + 1)
            else:
                slices.append((block, at, at + 1))
        return slices

    def gave_up_tasks(self, worker: Worker, failed: Sequence[Sequence[int]]) -> None:
        """The stage gave up tasks: (batch id, which input, -1 where that cannot be told)."""
        for batch_id, parent in failed:
            sources = worker.in_flight[batch_id].sources()
            for source in dict.fromkeys(sources if parent < 0 else [sources[parent]]) if sources else ():
                self.checkpoint.failed(source, f"{_BY_STAGE}: {worker.stage.spec.name}")

    def gave_up_batch(self, stage: StageState, batch: Batch, reason: str) -> None:
        """A batch was quarantined."""
        sources = batch.sources()
        if sources:
            self.checkpoint.gave_up(sources, f"stage {stage.spec.name}: {reason}")


def _sources(block: Block) -> list[int]:
    assert block.sources is not None
    return block.sources
