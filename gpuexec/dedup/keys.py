"""The keys of documents on disk: one file for each block, its records sorted by share, and where each share begins.

A *share* is what is compared at a time: the records of one band whose keys fall together. A file has several segments,
so that a block with many short documents does not need more memory than others; each segment is sorted by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpuexec.dedup.files import opened, read_json, write_json
from gpuexec.dedup.grouping import COPIES, RECORD, pass_of, records_of, share_of

Array = np.ndarray[Any, Any]

_SEGMENT = 1 << 20  # records: 24 MB


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
        index = [np.zeros(self.bands * self.shares + 1, np.int64)]
        with opened(self._path(block, "keys")) as file:
            waiting: list[tuple[Array, Array]] = []
            for batch in batches:
                waiting.append(batch)
                if sum(len(at) for _, at in waiting) * self.bands >= _SEGMENT:
                    index.append(self._write_segment(file, waiting, int(index[-1][-1])))
                    waiting = []
            if waiting:
                index.append(self._write_segment(file, waiting, int(index[-1][-1])))
        with opened(self._path(block, "npy")) as file:
            np.save(file, np.stack(index[1:] or index))
        write_json(self._path(block, "json"), facts)

    def count(self, blocks: Sequence[int], share: int) -> int:
        """Return how many records the blocks have in a share, which is one of ``bands * shares``."""
        return sum(int(np.diff(self._bounds(block, share), axis=1).sum()) for block in blocks)

    def batches(self, blocks: Sequence[int], share: int, memory: int) -> Iterator[Iterator[Array]]:
        """Yield passes over a share as batches of records, so that a pass can be compared within ``memory`` bytes.

        Records with equal keys are in the same pass.
        """
        at_once = max(1, memory // (2 * COPIES * RECORD.itemsize))  # as many as are kept of what is past
        passes = -(-self.count(blocks, share) // at_once)
        for number in range(passes):
            yield self._batches(blocks, share, at_once, number, passes)

    def _batches(self, blocks: Sequence[int], share: int, at_once: int, number: int, passes: int) -> Iterator[Array]:
        waiting: list[Array] = []
        for records in self._records(blocks, share, at_once):
            chosen = records if passes == 1 else records[pass_of(records, passes) == number]
            if waiting and sum(map(len, waiting)) + len(chosen) > at_once:
                yield np.concatenate(waiting)
                waiting = []
            waiting.append(chosen)
        if waiting:
            yield np.concatenate(waiting)

    def _records(self, blocks: Sequence[int], share: int, at_once: int) -> Iterator[Array]:
        for block in blocks:
            with self._path(block, "keys").open("rb") as file:
                for start, end in self._bounds(block, share):
                    for begin in range(int(start), int(end), at_once):
                        file.seek(begin * RECORD.itemsize)
                        yield np.fromfile(file, RECORD, min(at_once, int(end) - begin))

    def _bounds(self, block: int, share: int) -> Array:
        """Return, for each segment of a block, the first record of a share and the end of it."""
        index = np.load(self._path(block, "npy"), mmap_mode="r")
        return np.array(index[:, share : share + 2])

    def _write_segment(self, file: IO[bytes], batches: Sequence[tuple[Array, Array]], first: int) -> Array:
        keys, at = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        records = records_of(keys.reshape(-1, keys.shape[2]), np.repeat(at, self.bands))
        shares = np.tile(np.arange(self.bands), len(at)) * self.shares + share_of(records, self.shares)
        order = np.argsort(shares, kind="stable")
        file.write(records[order].tobytes())
        counts = np.bincount(shares, minlength=self.bands * self.shares)
        return np.concatenate([[first], first + np.cumsum(counts)])

    def _path(self, block: int, suffix: str) -> Path:
        return self.folder / f"{block:08d}.{suffix}"
