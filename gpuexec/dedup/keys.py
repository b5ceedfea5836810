"""The keys of documents on disk: one file for each block, its records sorted by share, and where each share begins.

A *share* is what is compared at a time: the records of one band whose keys fall together. A file has several segments,
so that a block with many short documents does not need more memory than others; each segment is sorted by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpuexec.dedup.files import opened, read_json, write_json
from gpuexec.dedup.grouping import COPIES, RECORD, pass_of, records_of, share_of

Array = np.ndarray[Any, Any]

_SEGMENT = 1 << 20  # records: 24 MB
_INDEX = np.dtype("<i8")  # the numbers of records at which shares begin


class KeyFolder:
    """The keys of all blocks. ``bands``: keys of each document; ``shares``: into how many parts each band is cut."""

    def __init__(self, folder: Path, bands: int, shares: int) -> None:
        self.folder = folder
        self.bands = bands
        self.shares = shares

    def facts(self, block: int) -> dict[str, Any] | None:
        """Return what was noted of a block, ``None`` if it has not been written to its end."""
        facts: dict[str, Any] | None = read_json(self._path(block, "json"))
        return facts

    def write(self, block: int, batches: Iterator[tuple[Array, Array]], facts: dict[str, Any]) -> None:
        """Write the keys uint8[n, bands, 16] and places of a block's documents, and then ``facts``.

        ``facts`` may be filled while the batches are made.
        """
        index = [np.zeros(self.bands * self.shares + 1, _INDEX)]
        with opened(self._path(block, "keys")) as file:
            waiting: list[tuple[Array, Array]] = []
            for batch in batches:
                waiting.append(batch)
                if sum(len(at) for _, at in waiting) * self.bands >= _SEGMENT:
                    index.append(self._write_segment(file, waiting, int(index[-1][-1])))
                    waiting = []
            if waiting:
                index.append(self._write_segment(file, waiting, int(index[-1][-1])))
        with opened(self._path(block, "index")) as file:
            file.write(np.stack(index[1:] or index).tobytes())
        write_json(self._path(block, "json"), facts)

    def batches(self, blocks: Sequence[int], share: int, memory: int) -> Iterator[Iterator[Array]]:
        """Yield passes over a share, one of ``bands * shares``, as batches of records.

        A pass can be compared within ``memory`` bytes. Records with equal keys are in the same pass.
        """
        at_once = max(1, memory // (2 * COPIES * RECORD.itemsize))  # as many as are kept of what is past
        spans = {block: found for block in blocks if len(found := self._spans(block, share))}
        passes = -(-sum(int((found[:, 1] - found[:, 0]).sum()) for found in spans.values()) // at_once)
        for number in range(passes):
            yield self._batches(spans, at_once, number, passes)

    def _batches(self, spans: Mapping[int, Array], at_once: int, number: int, passes: int) -> Iterator[Array]:
        waiting: list[Array] = []
        size = 0
        for records in self._records(spans, at_once):
            chosen = records if passes == 1 else records[pass_of(records, passes) == number]
            if waiting and size + len(chosen) > at_once:
                yield np.concatenate(waiting)
                waiting, size = [], 0
            waiting.append(chosen)
            size += len(chosen)
        if waiting:
            yield np.concatenate(waiting)

    def _records(self, spans: Mapping[int, Array], at_once: int) -> Iterator[Array]:
        for block, found in spans.items():
            with self._path(block, "keys").open("rb") as file:
                for start, end in found.tolist():
                    for begin in range(start, end, at_once):
                        file.seek(begin * RECORD.itemsize)
                        yield np.fromfile(file, RECORD, min(at_once, end - begin))

    def _spans(self, block: int, share: int) -> Array:
        """Return the first record of a share and the end of it, for each segment of a block that has any."""
        row = (self.bands * self.shares + 1) * _INDEX.itemsize
        with self._path(block, "index").open("rb", buffering=0) as file:
            segments = os.fstat(file.fileno()).st_size // row
            found = b"".join(
                os.pread(file.fileno(), 2 * _INDEX.itemsize, each * row + share * _INDEX.itemsize)
                for each in range(segments)
            )
        bounds = np.frombuffer(found, _INDEX).reshape(-1, 2)
        return bounds[bounds[:, 0] < bounds[:, 1]]

    def _write_segment(self, file: IO[bytes], batches: Sequence[tuple[Array, Array]], first: int) -> Array:
        keys, at = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        records = records_of(keys.reshape(-1, keys.shape[2]), np.repeat(at, self.bands))
        shares = np.tile(np.arange(self.bands), len(at)) * self.shares + share_of(records, self.shares)
        order = np.argsort(shares, kind="stable")
        file.write(records[order].tobytes())
        counts = np.bincount(shares, minlength=self.bands * self.shares)
        return np.concatenate([[first], first + np.cumsum(counts)]).astype(_INDEX)

    def _path(self, block: int, suffix: str) -> Path:
        return self.folder / f"{block:08d}.{suffix}"
