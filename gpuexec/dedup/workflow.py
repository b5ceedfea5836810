"""Runs a deduplication: hash documents → compare keys → join groups → list duplicates → remove them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuexec.contract.pipeline import Pipeline
from gpuexec.dedup.errors import DedupError, DuplicateIds
from gpuexec.dedup.inputs import Block
from gpuexec.dedup.stages import BlockTask, FindDuplicates, HashDocuments, ListDuplicates, RemoveDuplicates, ShareTask
from gpuexec.dedup.workplace import Job
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record

if TYPE_CHECKING:
    from gpuexec.contract.executor import BaseExecutor

_SHOWN = 5  # blocks in a message


class DedupResult(Record):
    """What a deduplication found, and where the results are.

    ``documents``: how many were read, ``without_text`` of these have no text. ``groups``: sets of two or more
    duplicates. ``removed``: how many documents are to be removed: all of each group but its first. ``ids``: the folder
    of Parquet files with their ids. ``groups_folder``: that with all documents of groups. ``kept``: the folder with the
    other documents, ``None`` if they were not asked for. ``id_generator``: which numbers the documents of each file
    have, in the form of NeMo Curator's id generator; ``None`` if a column has the ids. ``seconds``: what each step
    took in this run. ``resumed``: a run before this one had done a part of the work, or all of it.
    """

    documents: int
    without_text: int
    groups: int
    removed: int
    ids: Path
    groups_folder: Path
    kept: Path | None
    id_generator: Path | None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    resumed: bool = False

    def __str__(self) -> str:
        from gpuexec.report.wording import counted

        empty = f", {self.without_text:,} of them without text" if self.without_text else ""
        stay = self.documents - self.removed
        removed = counted(self.removed, "document")
        lines = [
            f"{counted(self.documents, 'document')}{empty}",
            f"{counted(self.groups, 'group')} of duplicates, {removed} to remove, {stay:,} stay",
            f"ids to remove: {self.ids}",
            f"groups:        {self.groups_folder}",
        ]
        if self.kept is not None:
            lines.append(f"what stays:    {self.kept}")
        if self.seconds:
            lines.append("time:          " + ", ".join(f"{name} {spent:.1f} s" for name, spent in self.seconds.items()))
        if self.resumed:
            lines.append("a run before this one had done a part of it" if self.seconds else "all was done before")
        return "\n".join(lines)


def check_executor(executor: BaseExecutor) -> None:
    """Raise ``ConfigurationError`` for an executor that keeps a checkpoint: a deduplication keeps its own."""
    if getattr(getattr(executor, "options", None), "checkpoint", None) is not None:
        raise ConfigurationError(
            "a deduplication runs several pipelines and keeps its own record of what is done, in its output folder: "
            "leave checkpoint out, and call run() again to go on"
        )


class Workflow:
    """One run of a job on an executor. What an earlier run has finished is left as it is."""

    def __init__(self, job: Job, executor: BaseExecutor, memory: int) -> None:
        self._place, self._blocks, self._resumed = job.workplace, job.blocks, job.resumed
        self._executor, self._memory = executor, memory
        self._seconds: dict[str, float] = {}

    def run(self, *, keep_work: bool) -> DedupResult:
        """Return the result."""
        summary = self._place.summary()
        if summary is None:
            summary = self._work()
            self._place.finish(summary, keep_work=keep_work)
        else:
            self._place.tidy(keep_work=keep_work)  # a run that was killed at its very end has left it
        place = self._place
        return DedupResult(
            documents=summary["documents"],
            without_text=summary["without_text"],
            groups=summary["groups"],
            removed=summary["removed"],
            ids=place.ids_folder,
            groups_folder=place.groups_folder,
            kept=place.documents_folder if place.settings.remove else None,
            id_generator=None if summary["id_generator"] is None else place.output / summary["id_generator"],
            seconds=self._seconds,
            resumed=self._resumed,
        )

    def _work(self) -> dict[str, Any]:
        self._timed("hash", self._hash)
        self._timed("compare", self._compare)
        self._timed("join", self._join)
        counts = [facts["documents"] for facts in self._facts()]
        groups, removed = self._place.labels().counts()
        self._timed("list", lambda: self._list(counts))
        if self._place.settings.remove:
            self._timed("remove", self._remove)
        return {
            "documents": sum(counts),
            "without_text": sum(facts["without_text"] for facts in self._facts()),
            "groups": groups,
            "removed": removed,
            "id_generator": self._id_generator(counts),
        }

    def _timed(self, name: str, step: Callable[[], None]) -> None:
        began = time.monotonic()
        step()
        self._seconds[name] = time.monotonic() - began

    def _hash(self) -> None:
        left = [block for block in self._blocks if self._place.keys.facts(block.index) is None]
        self._run(HashDocuments(self._place), _block_tasks(left))
        self._check_all([block for block in self._blocks if self._place.keys.facts(block.index) is None])
        kinds = {facts["id_type"] for facts in self._facts()} - {None}
        if len(kinds) > 1:
            raise DedupError(
                f"column {self._place.settings.id!r} has texts in some files and whole numbers in others: "
                "ids must be of one type"
            )

    def _compare(self) -> None:
        left = [share for share in range(self._place.share_count) if not self._place.edges_path(share).exists()]
        tasks = self._run(FindDuplicates(self._place, self._memory), [ShareTask("keys", share) for share in left])
        same = min((task.same_id for task in tasks if task.same_id is not None), default=None)
        if same is not None:
            raise DuplicateIds(self._same_id(*same))
        missing = [share for share in left if not self._place.edges_path(share).exists()]
        if missing:
            raise DedupError(f"{len(missing)} of {len(left)} shares of the keys were not compared; run it again")

    def _join(self) -> None:
        from gpuexec.dedup.labels import write_labels

        if not self._place.labels_path.exists():
            shares = [share for share in range(self._place.share_count) if not self._place.has_ids(share)]
            write_labels(self._place.labels_path, [self._place.edges_path(share) for share in shares], self._memory)

    def _list(self, counts: Sequence[int]) -> None:
        from gpuexec.dedup.lists import is_listed

        labels = self._place.labels()
        first_numbers = list(itertools.accumulate(counts[:-1], initial=0))

        def left() -> list[Block]:
            unfinished = (b for b in self._blocks if not is_listed(self._place, b.index, labels.has(b.index)))
            return list(unfinished)

        self._run(ListDuplicates(self._place, first_numbers), _block_tasks(left()))
        self._check_all(left())

    def _remove(self) -> None:
        def left() -> list[Block]:
            return [block for block in self._blocks if not self._place.document_path(block).exists()]

        self._run(RemoveDuplicates(self._place), _block_tasks(left()))
        self._check_all(left())

    def _run(self, stage: Any, tasks: Sequence[Any]) -> list[Any]:
        if not tasks:
            return []
        method = "fuzzy" if self._place.settings.method.fuzzy else "exact"
        pipeline = Pipeline(f"{method}_dedup_{stage.name}", stages=[stage])
        return pipeline.run(self._executor, initial_tasks=list(tasks)) or []

    def _check_all(self, missing: Sequence[Block]) -> None:
        """Raise `DedupError` for blocks that were left out, as an executor does that sets failed tasks aside."""
        if missing:
            names = ", ".join(dict.fromkeys(block.source.path for block in missing[:_SHOWN]))
            raise DedupError(
                f"{len(missing)} of {len(self._blocks)} blocks were not processed, among them those of {names}: the "
                "result would lack duplicates. Mend or leave out these files and run it again"
            )

    def _facts(self) -> Iterator[dict[str, Any]]:
        for block in self._blocks:
            facts = self._place.keys.facts(block.index)
            assert facts is not None, "`_hash` has written them all"
            yield facts

    def _same_id(self, one: int, other: int) -> str:
        from gpuexec.dedup.grouping import block_of, row_of

        where = [
            f"document {row_of(place) + 1:,} of block {block.part or 0} of {block.source.path}"
            for place, block in ((place, self._blocks[block_of(place)]) for place in (one, other))
        ]
        return (
            f"{where[0]} and {where[1]} have the same id in column {self._place.settings.id!r}: removing one by its "
            "id would remove both. Give them different ids, or leave the id column out: documents are then numbered"
        )

    def _id_generator(self, counts: Sequence[int]) -> str | None:
        from gpuexec.dedup.lists import write_id_generator

        if self._place.settings.id is not None:
            return None
        return write_id_generator(self._place, self._blocks, counts).name


def _block_tasks(blocks: Sequence[Block]) -> list[BlockTask]:
    return [BlockTask(Path(block.source.path).name, block) for block in blocks]
