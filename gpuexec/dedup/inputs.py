"""Which files are read, and how they are cut into blocks that workers read on their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpuexec.errors import ConfigurationError
from gpuexec.records import Record

JSON_LINES, PARQUET = "jsonl", "parquet"
PACKED = (".gz", ".bz2", ".xz", ".zst")
_FORMATS = {".jsonl": JSON_LINES, ".json": JSON_LINES, ".ndjson": JSON_LINES, ".parquet": PARQUET}

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Source(Record):
    """A file: its path, its path below the folder of all files, and what tells whether it is still the same."""

    path: str
    name: str
    size: int  # bytes
    changed_ns: int  # time of the last change


class Block(Record):
    """A part of a file: bytes of JSON lines, or row groups of Parquet. ``end``: exclusive.

    ``part``: the number of the block in its file, ``None`` if it is the whole file.
    """

    index: int
    source: Source
    start: int
    end: int
    part: int | None = None


def format_of(path: str) -> str | None:
    """Return the format that a file's name says, ``None`` if it is none of ours."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        return JSON_LINES if len(suffixes) > 1 and _FORMATS.get(suffixes[-2]) == JSON_LINES else None
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def packing_of(path: str) -> str | None:
    """Return the suffix of the compression of a file of JSON lines, ``None`` if it is not compressed."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in PACKED else None


def sources_of(paths: Paths, apart_from: Path) -> list[Source]:
    """Return the files that are meant, sorted by path. ``apart_from``: the output, which may lie inside the input.

    ``paths``: files, patterns such as ``data/*.jsonl.gz``, and folders, of which all files below with a known name
    count, but for those whose name or folder begins with ``.`` or ``_``. A file that is there under several names, by
    links or by ``..``, is read once, under one of them. Raises ``ConfigurationError`` for what does not exist or
    has an unknown format, and if the output would hold all of the input.
    """
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = sorted({path for each in named for path in _files(os.fspath(each))})
    output = apart_from.resolve()
    by_file = {path.resolve(): str(path) for path in reversed(found)}  # so that the first name of a file stays
    paths_to_read = sorted(path for file, path in by_file.items() if not file.is_relative_to(output))
    if not paths_to_read:
        raise ConfigurationError(_nothing_to_read(named, output if found else None))
    common = os.path.commonpath([os.path.dirname(path) for path in paths_to_read])  # noqa: PTH120 - texts, not paths
    return [_source(path, os.path.relpath(path, common)) for path in paths_to_read]


def _nothing_to_read(named: Sequence[str | os.PathLike[str]], output: Path | None) -> str:
    """Return why there is nothing to read; ``output``: the folder in which everything is, ``None`` if nothing is."""
    if output is not None:
        return f"all of the input is in the output folder {output}, which is not read: name another output folder"
    return (
        f"there are no documents to read in {', '.join(map(str, named)) or 'an empty list'}: looked for files that "
        f"end in {', '.join(_FORMATS)}, of which JSON lines may be compressed ({', '.join(PACKED)})"
    )


def blocks_of(sources: Sequence[Source], block_bytes: int) -> list[Block]:
    """Cut files into blocks of about ``block_bytes``. What is compressed as a whole stays whole.

    Raises ``ConfigurationError`` for a Parquet file that cannot be read.
    """
    blocks: list[Block] = []
    for source in sources:
        spans = list(_spans(source, block_bytes))
        for part, (start, end) in enumerate(spans):
            blocks.append(Block(len(blocks), source, start, end, part if len(spans) > 1 else None))
    return blocks


def _files(path: str) -> Iterator[Path]:
    if "://" in path:
        raise ConfigurationError(f"input {path!r}: only files of this machine can be read; copy the data here first")
    given = Path(path).absolute()
    if given.is_dir():
        yield from _files_below(given.resolve())
    elif given.exists():
        yield _checked(given)
    elif any(letter in path for letter in "*?["):
        import glob

        for match in sorted(glob.glob(str(given), recursive=True)):  # noqa: PTH207 - a pattern of any depth
            if not Path(match).is_dir():
                yield _checked(Path(match))
    else:
        raise ConfigurationError(f"input {path!r} does not exist")


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. Links to folders are followed, each folder is read once."""
    known: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in known:
            folders.clear()
            continue
        known.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in files:
            if not name.startswith((".", "_")) and format_of(name):
                yield Path(parent, name)


def _checked(path: Path) -> Path:
    """Return a file, its folder without links and ``..``, so that a file has one path however it is named."""
    if format_of(path.name) is None:
        raise ConfigurationError(
            f"input {str(path)!r} has an unknown format: the name of a file of JSON lines ends in .jsonl, .ndjson or "
            f".json, perhaps followed by {', '.join(PACKED)}, and that of a Parquet file in .parquet"
        )
    return path.parent.resolve() / path.name


def _source(path: str, name: str) -> Source:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ConfigurationError(f"input {path!r} cannot be read: {error.strerror}") from error
    return Source(path, name, status.st_size, status.st_mtime_ns)


def _spans(source: Source, block_bytes: int) -> Iterator[tuple[int, int]]:
    if format_of(source.path) == PARQUET:
        yield from _row_group_spans(source, block_bytes)
    elif packing_of(source.path):
        yield 0, source.size
    else:
        for start in range(0, max(source.size, 1), block_bytes):
            yield start, min(start + block_bytes, source.size)


def _row_group_spans(source: Source, block_bytes: int) -> Iterator[tuple[int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(source.path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"input {source.path!r} cannot be read as Parquet: {error}") from error
    start = taken = 0
    for group in range(metadata.num_row_groups):
        taken += metadata.row_group(group).total_byte_size
        if taken >= block_bytes:
            yield start, group + 1
            start, taken = group + 1, 0
    if start < metadata.num_row_groups or not metadata.num_row_groups:
        yield start, metadata.num_row_groups
