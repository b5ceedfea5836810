"""Which source each task descends from, for the checkpoint. A run without one has `NoLineage`, which costs nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from gpuexec.core.batch import Batch, Block, BlockSlice
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import Worker

_BY_STAGE = "a stage returned a FailedTask"


class SourceRecords(Protocol):
    """The part of a checkpoint that the lineage writes to."""

    def admit(self, key: str) -> int | None:
        """Open a task of the source with this key and return the source's number; ``None``: it was done before."""

    def complete_batch(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        """Account for a complete batch and return the source of each output."""

    def note_returned(self, inputs: Sequence[int], parents: Sequence[int]) -> None:
        """Note tasks that came out of the last stage, of a batch whose other outputs did not."""

    def fail_source(self, source: int, reason: str) -> None:
        """Note that a task of the source was given up."""

    def fail_batch(self, inputs: Sequence[int], reason: str) -> None:
        """Note that a whole batch was given up."""


class NoLineage:
    """For a run without a checkpoint."""

    keeps_parents = False

    def admit_initial_tasks(
        self, tasks: list[Any], numbers: list[int]
    ) -> tuple[list[Any], list[int], list[int] | None]:
        """Return them as they are."""
        return tasks, numbers, None

    def completed(self, stage: StageState, batch: Batch) -> list[BlockSlice]:  # noqa: ARG002 - the interface of Lineage
        """Return all outputs of the batch."""
        return batch.outputs

    def gave_up_tasks(self, worker: Worker, failed: Sequence[Sequence[int]]) -> None:
        """Nothing to note."""

    def gave_up_batch(self, stage: StageState, batch: Batch, reason: str) -> None:
        """Nothing to note."""


class Lineage:
    """Reports to the checkpoint what becomes of every task.

    Sources are the outputs of the stage marked as a source; without one, the caller's tasks. The stages up to that one
    are never fused, since it has to be asked of every source whether an earlier run has done it.
    """

    keeps_parents = True

    def __init__(self, records: SourceRecords, specs: Sequence[StageSpec]) -> None:
        self._records = records
        self._source_stage = next((spec.index for spec in specs if spec.is_source), -1)
        self._last_stage = len(specs) - 1

    def admit_initial_tasks(
        self, tasks: list[Any], numbers: list[int]
    ) -> tuple[list[Any], list[int], list[int] | None]:
        """Drop the caller's tasks that an earlier run has done, if they are the sources.

        Return the other tasks, their numbers and their sources.
        """
        if self._source_stage >= 0:
            return tasks, numbers, None
        admitted = [(task, n, self._records.admit(task.task_id)) for task, n in zip(tasks, numbers, strict=True)]
        kept = [(task, n, source) for task, n, source in admitted if source is not None]
        return [task for task, _, _ in kept], [n for _, n, _ in kept], [source for _, _, source in kept]

    def completed(self, stage: StageState, batch: Batch) -> list[BlockSlice]:
        """Account for a complete batch and return the outputs that go on."""
        index = stage.spec.index
        if index < self._source_stage:
            return batch.outputs
        ends = stage.lead.members[-1].spec.index == self._last_stage
        if index == self._source_stage:
            slices = [part for block, _, _ in batch.outputs for part in self._admit(block)]
            if ends:
                admitted = [source for block, start, stop in slices for source in _sources(block)[start:stop]]
                if admitted:  # an earlier run may have done all of them
                    self._records.complete_batch(admitted, range(len(admitted)), ends=True)
            return slices
        if ends and any(block.goes_to is not None for block, _, _ in batch.outputs):
            self._complete_in_last_group(batch)
            return batch.outputs
        sources = iter(self._records.complete_batch(batch.sources(), batch.parents, ends=ends))
        for block, _, _ in batch.outputs:
            block.sources = [next(sources) for _ in block.task_ids] if not ends else None
        return batch.outputs

    def _complete_in_last_group(self, batch: Batch) -> None:
        """Account for a batch of which some outputs came out of the last stage and others wait for a stage before."""
        inputs, parents = batch.sources(), iter(batch.parents)
        staying: list[int] = []
        leaving: list[int] = []
        for block, _, _ in batch.outputs:
            (leaving if block.goes_to is None else staying).extend(itertools.islice(parents, len(block)))
        sources = iter(self._records.complete_batch(inputs, staying))
        for block, _, _ in batch.outputs:
            block.sources = None if block.goes_to is None else list(itertools.islice(sources, len(block)))
        if leaving:
            self._records.note_returned(inputs, leaving)

    def _admit(self, block: Block) -> list[BlockSlice]:
        """Return the slices of a block's tasks that no earlier run has done."""
        admitted = [self._records.admit(task_id) for task_id in block.task_ids]
        block.sources = [-1 if source is None else source for source in admitted]
        slices: list[BlockSlice] = []
        for index, source in enumerate(admitted):
            if source is None:
                continue
            if slices and slices[-1][2] == index:
                slices[-1] = (block, slices[-1][1], index + 1)
            else:
                slices.append((block, index, index + 1))
        return slices

    def gave_up_tasks(self, worker: Worker, failed: Sequence[Sequence[int]]) -> None:
        """Note tasks that a stage gave up: (batch id, index of the input, -1 if unknown, stage of the group)."""
        for batch_id, parent, stage in failed:
            sources, name = worker.in_flight[batch_id].sources(), worker.members[stage].spec.name
            for source in dict.fromkeys(sources if parent < 0 else [sources[parent]]) if sources else ():
                self._records.fail_source(source, f"{_BY_STAGE}: {name}")

    def gave_up_batch(self, stage: StageState, batch: Batch, reason: str) -> None:
        """Note a batch that was quarantined."""
        sources = batch.sources()
        if sources:
            self._records.fail_batch(sources, f"stage {stage.spec.name}: {reason}")


def _sources(block: Block) -> list[int]:
    assert block.sources is not None
    return block.sources
