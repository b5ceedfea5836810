"""The native stages of a deduplication. Each task is one block of documents or one share of their keys.

A stage writes its results to files of the task, so tasks may run in any order, in any process, and again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuexec.contract.stage import ProcessingStage
from gpuexec.contract.task import Task
from gpuexec.dedup.errors import UnreadableInput
from gpuexec.dedup.inputs import Block

if TYPE_CHECKING:
    from gpuexec.dedup.workplace import Workplace


@dataclass(repr=False)
class BlockTask(Task[Block]):
    """One block of documents."""

    documents: int = 1  # how many there are, once they have been read

    @property
    def num_items(self) -> int:
        return self.documents

    def validate(self) -> bool:
        return True


@dataclass(repr=False)
class ShareTask(Task[int]):
    """The number of one share of the keys. ``same_id``: the places of two documents with the same id."""

    same_id: tuple[int, int] | None = None

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class HashDocuments(ProcessingStage[BlockTask, BlockTask]):
    """Reads a block and writes the keys of its documents, and their ids."""

    name = "hash_documents"

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    def setup(self, worker_metadata: Any = None) -> None:  # noqa: ARG002
        from gpuexec.dedup.settings import keys_maker

        self.keys_of = keys_maker(self.workplace.settings)

    def process(self, task: BlockTask) -> BlockTask:
        facts: dict[str, Any] = {"documents": 0, "without_text": 0, "id_type": None}
        with self._ids(task.data, facts) as keep_ids:
            batches = self._keys(task.data, facts, keep_ids)
            self.workplace.keys.write(task.data.index, batches, facts)
        task.documents = facts["documents"]
        self._log_metric("documents", task.documents)
        return task

    def _keys(self, block: Block, facts: dict[str, Any], keep_ids: Any) -> Iterator[tuple[Any, Any]]:
        import numpy as np

        from gpuexec.dedup.bands import text_keys
        from gpuexec.dedup.grouping import places
        from gpuexec.dedup.reading import read_documents

        settings = self.workplace.settings
        for found in read_documents(block, settings.text, settings.id):
            at = places(block.index, facts["documents"], len(found.texts))
            keys = np.array(self.keys_of(found.texts))
            if found.ids is not None:
                keep_ids(found.ids)
                keys = np.concatenate([keys, text_keys([str(each) for each in found.ids])], axis=1)
            facts["documents"] += len(found.texts)
            empty = np.array([not text for text in found.texts])
            facts["without_text"] += int(empty.sum())
            if not settings.group_empty:
                keys[empty, : settings.method.keys_per_document] = _own_keys(at[empty])
            yield keys, at

    @contextlib.contextmanager
    def _ids(self, block: Block, facts: dict[str, Any]) -> Iterator[Any]:
        """Yield a function that keeps ids of a block's documents in a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from gpuexec.dedup.files import written

        if self.workplace.settings.id is None:
            yield None
            return
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(written(self.workplace.ids_path(block.index)))
            writer: Any = None

            def keep(ids: list[Any]) -> None:
                nonlocal writer
                if not ids:
                    return
                kind = pa.string() if isinstance(ids[0], str) else pa.int64()
                try:
                    table = pa.table({"id": pa.array(ids, kind if writer is None else writer.schema.field("id").type)})
                except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
                    raise UnreadableInput(
                        f"{block.source.path}: ids in column {self.workplace.settings.id!r} must be all texts, or all "
                        f"whole numbers of 64 bits: {error}"
                    ) from error
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
                    facts["id_type"] = str(kind)
                writer.write_table(table)

            yield keep
            if writer is None:
                pq.write_table(pa.table({"id": pa.array([], pa.int64())}), path)


class FindDuplicates(ProcessingStage[ShareTask, ShareTask]):
    """Compares the keys of a share and writes which documents have the same."""

    name = "find_duplicates"

    def __init__(self, workplace: Workplace, memory: int) -> None:
        self.workplace = workplace
        self.memory = memory

    def process(self, task: ShareTask) -> ShareTask:
        from gpuexec.dedup.files import opened

        if self.workplace.has_ids(task.data):
            for edges in self._edges(task.data):
                task.same_id = (int(edges[0, 0]), int(edges[0, 1]))
                return task  # without a file, so the next run finds it again
        with opened(self.workplace.edges_path(task.data)) as file:
            for edges in self._edges(task.data):
                file.write(edges.tobytes())
        return task

    def _edges(self, share: int) -> Iterator[Any]:
        from gpuexec.dedup.grouping import edges_between

        blocks = range(self.workplace.block_count)
        for batches in self.workplace.keys.batches(blocks, share, self.memory):
            yield from edges_between(batches)


class ListDuplicates(ProcessingStage[BlockTask, BlockTask]):
    """Writes the ids of a block's documents that are to be removed, and those that are in groups."""

    name = "list_duplicates"

    def __init__(self, workplace: Workplace, first_numbers: list[int]) -> None:
        self.workplace = workplace
        self.first_numbers = first_numbers

    def process(self, task: BlockTask) -> BlockTask:
        from gpuexec.dedup.lists import write_lists

        write_lists(self.workplace, task.data.index, self.first_numbers)
        return task


class RemoveDuplicates(ProcessingStage[BlockTask, BlockTask]):
    """Writes a block without the documents that are to be removed, in the format it has."""

    name = "remove_duplicates"

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    def process(self, task: BlockTask) -> BlockTask:
        from gpuexec.dedup.filtering import copy_without

        rows = self.workplace.labels().removed_rows(task.data.index)
        copy_without(task.data, rows, self.workplace.document_path(task.data))
        return task


def _own_keys(at: Any) -> Any:
    """Return keys uint8[n, 1, 16] that only these documents have: their places."""
    from gpuexec.dedup.bands import text_keys

    return text_keys([f"place {place}" for place in at])
