"""Reads the documents of a block, some at a time. Every problem names the file and the line or column."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from gpuexec.dedup.errors import UnreadableInput
from gpuexec.dedup.inputs import JSON_LINES, Block, Source, format_of, packing_of
from gpuexec.records import Record

_BATCH_BYTES = 8 << 20  # of text at a time
_BATCH_ROWS = 4096
_MARK = b"\xef\xbb\xbf"  # some editors begin a file of UTF-8 with it


class Documents(Record):
    """Some documents: their texts, and their ids if a column has them."""

    texts: list[str | None]
    ids: list[Any] | None


def read_documents(block: Block, text: str, id_column: str | None) -> Iterator[Documents]:
    """Yield the documents of a block in order. ``text``, ``id_column``: names of columns.

    Raises `UnreadableInput` for what is not as the plan says: a changed or damaged file, a column that is missing or
    of the wrong type, a document without id.
    """
    check_unchanged(block.source)
    columns = [text] if id_column is None else [text, id_column]
    if format_of(block.source.path) == JSON_LINES:
        yield from _from_lines(block, columns)
    else:
        yield from _from_parquet(block, columns)


def check_unchanged(source: Source) -> None:
    """Raise `UnreadableInput` if a file is not the one that was listed."""
    try:
        status = Path(source.path).stat()
    except OSError as error:
        raise UnreadableInput(f"{source.path} cannot be read: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != (source.size, source.changed_ns):
        raise UnreadableInput(
            f"{source.path} was changed since the deduplication began: run again with overwrite=True (--overwrite)"
        )


def lines_of(block: Block) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in a block and are not blank, each with the byte at which it begins.

    Raises `UnreadableInput`.
    """
    try:
        yield from _lines_of(block)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UnreadableInput(f"{block.source.path} cannot be read: {error}") from error


def _lines_of(block: Block) -> Iterator[tuple[int, bytes]]:
    with open_lines(block.source.path) as file:
        position, end = block.start, None if packing_of(block.source.path) else block.end
        if position:
            file.seek(position - 1)
            position += len(file.readline()) - 1  # the rest of the line before
        while end is None or position < end:
            line = file.readline()
            if not line:
                return
            if line.removeprefix(_MARK).strip():
                yield position, line
            position += len(line)


def open_lines(path: str) -> IO[bytes]:
    """Open a file of JSON lines, compressed or not."""
    packing = packing_of(path)
    if packing == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    openers: dict[str | None, Any] = {None: open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opened: IO[bytes] = openers[packing](path, "rb")
    return opened


def _from_lines(block: Block, columns: Sequence[str]) -> Iterator[Documents]:
    rows: list[list[Any]] = []
    size = count = 0
    seen: set[str] = set()
    missing = set(columns)
    for position, line in lines_of(block):
        document = _parsed(block.source.path, position, line)
        missing.difference_update(document)
        if missing and len(seen) < 50:
            seen.update(document)
        rows.append([document.get(column) for column in columns])
        _check_values(rows[-1], columns, f"{block.source.path}, byte {position:,}")
        size += len(line)
        count += 1
        if size >= _BATCH_BYTES or len(rows) >= _BATCH_ROWS:
            yield _documents(rows, columns)
            rows, size = [], 0
    if count and missing:
        raise UnreadableInput(_without_column(block.source.path, min(missing), sorted(seen)))
    if rows:
        yield _documents(rows, columns)


def _parsed(path: str, position: int, line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line.removeprefix(_MARK) if position == 0 else line)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise UnreadableInput(
            f"{path}: the line at byte {position:,} is not JSON: {error}; "
            "each line is to be one document, an object {…}"
        ) from error
    except RecursionError as error:
        raise UnreadableInput(f"{path}: the line at byte {position:,} is nested too deeply to be read") from error
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise UnreadableInput(
            f"{path}: the line at byte {position:,} is of type {kind}; each line is to be one document, an object {{…}}"
        )
    return document


def _check_values(values: Sequence[Any], columns: Sequence[str], where: str) -> None:
    text, *identity = values
    if text is not None and not isinstance(text, str):
        raise UnreadableInput(f"{where}: column {columns[0]!r} has a value of type {type(text).__name__}, not a text")
    if identity and (identity[0] is None or isinstance(identity[0], bool | float | list | dict)):
        raise UnreadableInput(
            f"{where}: column {columns[1]!r} has {identity[0]!r} where an id should be: a text or a whole number"
        )


def _documents(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> Documents:
    return Documents([row[0] for row in rows], [row[1] for row in rows] if len(columns) > 1 else None)


def _without_column(path: str, column: str, seen: Sequence[str]) -> str:
    return f"{path} has no column {column!r}; it has {', '.join(map(repr, seen)) or 'no columns'}"


def _from_parquet(block: Block, columns: Sequence[str]) -> Iterator[Documents]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = block.source.path
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow, columns)
            groups = range(block.start, block.end)
            rows = rows_at_once(file.metadata, groups)
            for batch in file.iter_batches(rows, row_groups=groups, columns=list(dict.fromkeys(columns))):
                ids = batch[columns[1]] if len(columns) > 1 else None
                if ids is not None and ids.null_count:
                    raise UnreadableInput(f"{path}: {ids.null_count} documents have no id in column {columns[1]!r}")
                yield Documents(batch[columns[0]].to_pylist(), None if ids is None else ids.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise UnreadableInput(f"{path} cannot be read: {error}") from error


def rows_at_once(metadata: Any, groups: Sequence[int]) -> int:
    """Return how many rows of some row groups may be read at a time, by their mean size."""
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    size = sum(metadata.row_group(group).total_byte_size for group in groups)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows // size)) if size else _BATCH_ROWS


def _check_schema(path: str, schema: Any, columns: Sequence[str]) -> None:
    import pyarrow.types as kinds

    for column, wanted in zip(columns, ("text", "texts or whole numbers"), strict=False):
        if column not in schema.names:
            raise UnreadableInput(_without_column(path, column, schema.names))
        if schema.names.count(column) > 1:
            raise UnreadableInput(f"{path} has {schema.names.count(column)} columns {column!r}: rename all but one")
        kind = schema.field(column).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        is_text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
        also = (
            kinds.is_null(kind) if column == columns[0] else kinds.is_integer(kind)
        )  # pandas writes only None as null
        if not is_text and not also:
            raise UnreadableInput(f"{path}: column {column!r} has values of type {kind}, and should have {wanted}")
