"""Writes which documents are to be removed and which belong together, in the form that NeMo Curator's stages read."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpuexec.dedup.files import write_json, written
from gpuexec.dedup.grouping import blocks_of, rows_of
from gpuexec.dedup.inputs import Block
from gpuexec.dedup.settings import EXACT_GROUP_COLUMN, FUZZY_GROUP_COLUMN, ID_COLUMN
from gpuexec.dedup.workplace import Workplace

_ROWS_PER_GROUP = 100_000  # readers skip row groups without ids of theirs


def write_lists(workplace: Workplace, block: int, first_numbers: Sequence[int]) -> None:
    """Write the ids to remove of a block, and its documents that are in groups.

    ``first_numbers``: for each block the number of its first document. A group has the number of its first document.
    The ids are sorted. Of a block that has none, only the first one gets files, so that the folders are never empty.
    """
    rows, firsts = workplace.labels().of_block(block)
    groups = np.array(first_numbers, np.int64)[blocks_of(firsts)] + rows_of(firsts)
    numbers = rows + first_numbers[block]
    removed = groups != numbers
    column = workplace.settings.id or ID_COLUMN
    group_column = FUZZY_GROUP_COLUMN if workplace.settings.method.fuzzy else EXACT_GROUP_COLUMN
    if workplace.settings.id is None:
        ids, to_remove = _column(numbers), _column(numbers[removed])  # they are sorted
    else:
        ids = _ids(workplace.ids_path(block), rows)
        to_remove = ids.filter(pa.array(removed.tolist(), pa.bool_())).sort()
    _write(workplace.ids_folder, block, pa.table({column: to_remove}))
    _write(workplace.groups_folder, block, pa.table({column: ids, group_column: _column(groups)}))  # see `is_listed`


def is_listed(workplace: Workplace, block: int, documents_in_groups: bool) -> bool:
    """Return whether the lists of a block are written; ``documents_in_groups``: whether it has anything to list."""
    return not (documents_in_groups or block == 0) or _path(workplace.groups_folder, block).exists()


def write_id_generator(workplace: Workplace, blocks: Sequence[Block], documents: Sequence[int]) -> Path:
    """Write the numbers of the documents as Curator's id generator keeps them, and return the file.

    It says which numbers the documents of each file have, for Curator's readers that read one file at a time.
    ``documents``: how many each block has.
    """
    counts: dict[str, int] = {}
    for block, count in zip(blocks, documents, strict=True):
        counts[block.source.path] = counts.get(block.source.path, 0) + count
    registry: dict[str, list[int]] = {}
    first = 0
    for path, count in counts.items():
        registry[str(uuid.uuid5(uuid.NAMESPACE_URL, path))] = [first, first + count - 1]
        first += count
    name = "fuzzy" if workplace.settings.method.fuzzy else "exact"
    target = workplace.output / f"{name}_id_generator.json"
    write_json(target, {"next_id": first, "batch_registry": registry})
    return target


def _ids(path: Path, rows: Any) -> Any:
    """Return the ids of some rows of a block, reading a part of them at a time."""
    found = []
    first = 0
    with pq.ParquetFile(path) as file:
        kind = file.schema_arrow.field("id").type
        for batch in file.iter_batches():
            low, high = np.searchsorted(rows, [first, first + len(batch)])
            found.append(batch["id"].take(_column(rows[low:high] - first)))
            first += len(batch)
    return pa.concat_arrays(found) if found else pa.array([], kind)


def _column(numbers: Any) -> Any:
    """Return int64 numbers as a column. `pyarrow.array` would import pandas, where it is installed, for 2 s."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _write(folder: Path, block: int, table: Any) -> None:
    if len(table) or block == 0:
        with written(_path(folder, block)) as part:
            pq.write_table(table, part, row_group_size=_ROWS_PER_GROUP)


def _path(folder: Path, block: int) -> Path:
    return folder / f"part.{block:06d}.parquet"
