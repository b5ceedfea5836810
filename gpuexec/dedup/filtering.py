"""Copies a block of documents without some of them. Lines stay byte for byte as they are, Parquet keeps its columns."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpuexec.dedup.errors import UnreadableInput
from gpuexec.dedup.files import written
from gpuexec.dedup.inputs import JSON_LINES, Block, format_of, packing_of
from gpuexec.dedup.reading import check_unchanged, lines_of, rows_at_once

Array = np.ndarray[Any, Any]

_ROW_GROUP_BYTES = 64 << 20  # in memory


def copy_without(block: Block, rows: Array, target: Path) -> None:
    """Write the documents of a block but for those in ``rows``, which are sorted.

    Raises `UnreadableInput` and `OutputNotWritten`.
    """
    check_unchanged(block.source)
    with written(target) as part:
        if format_of(block.source.path) == JSON_LINES:
            _copy_lines(block, rows, part)
        else:
            _copy_rows(block, rows, part)


def _copy_lines(block: Block, rows: Array, part: Path) -> None:
    removed = set(rows.tolist())
    with _packed(part, packing_of(block.source.path)) as file:
        for row, (_, line) in enumerate(lines_of(block)):
            if row not in removed:
                file.write(line if line.endswith(b"\n") else line + b"\n")


def _copy_rows(block: Block, rows: Array, part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with contextlib.ExitStack() as files:
            source = files.enter_context(pq.ParquetFile(block.source.path))
            codec = _codec(source.metadata)
            writer = files.enter_context(pq.ParquetWriter(part, source.schema_arrow, compression=codec))
            for table in _row_groups(_kept(block, rows, source)):
                writer.write_table(table, row_group_size=len(table) or None)
    except pa.ArrowException as error:
        raise UnreadableInput(f"{block.source.path} cannot be read: {error}") from error


def _kept(block: Block, rows: Array, source: Any) -> Iterator[Any]:
    """Yield the rows of a block that stay, some at a time."""
    import pyarrow as pa

    first = 0
    groups = range(block.start, block.end)
    for batch in source.iter_batches(rows_at_once(source.metadata, groups), row_groups=groups):
        low, high = np.searchsorted(rows, [first, first + len(batch)])
        stays = np.ones(len(batch), bool)
        stays[rows[low:high] - first] = False
        yield batch.filter(pa.array(stays.tolist(), pa.bool_()))
        first += len(batch)


def _row_groups(batches: Iterator[Any]) -> Iterator[Any]:
    """Put batches together to tables of a size that suits readers."""
    import pyarrow as pa

    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.nbytes for each in waiting) >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _codec(metadata: Any) -> str:
    """Return how a Parquet file is compressed, by its first column."""
    if not metadata.num_row_groups or not metadata.num_columns:
        return "snappy"
    codec = metadata.row_group(0).column(0).compression
    return codec if codec in ("SNAPPY", "GZIP", "BROTLI", "LZ4", "ZSTD") else "NONE"


@contextlib.contextmanager
def _packed(part: Path, packing: str | None) -> Iterator[Any]:
    """Open a file for lines, compressed as its source is. The same lines give the same bytes."""
    with part.open("wb") as file:
        if packing is None:
            yield file
        elif packing == ".gz":
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                yield packed
        elif packing == ".zst":
            import pyarrow as pa

            with pa.output_stream(file, compression="zstd") as packed:
                yield packed
        else:
            with (bz2 if packing == ".bz2" else lzma).open(file, "wb") as packed:
                yield packed
