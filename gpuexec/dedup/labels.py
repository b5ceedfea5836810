"""Which group each document with a duplicate is in, on disk: looked at through memory maps, never read as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuexec.dedup.components import components
from gpuexec.dedup.files import opened
from gpuexec.dedup.grouping import places, rows_of

Array = np.ndarray[Any, Any]

_LABEL = np.dtype([("place", "<u8"), ("first", "<u8")])  # a document, and the first one of its group
_EDGE_BYTES = 16


class Labels:
    """The groups in a file. A group is known by its first document, which is the one that stays."""

    def __init__(self, path: Path) -> None:
        self._labels: Array = np.load(path, mmap_mode="r")

    def counts(self) -> tuple[int, int]:
        """Return how many groups there are, and how many documents are to be removed."""
        groups = sum(int((part["place"] == part["first"]).sum()) for part in self._parts())
        return groups, len(self._labels) - groups

    def of_block(self, block: int) -> tuple[Array, Array]:
        """Return the rows of a block's documents that are in groups, and the place of the first of each one's group."""
        part = self._part(block)
        return rows_of(part["place"]), part["first"]

    def removed_rows(self, block: int) -> Array:
        """Return the rows of a block's documents that are to be removed, in order."""
        part = self._part(block)
        return rows_of(part["place"][part["place"] != part["first"]])

    def has(self, block: int) -> bool:
        """Return whether a block has documents that are in groups."""
        return len(self._part(block)) > 0

    def _part(self, block: int) -> Array:
        begin, end = places(block, 0, 1)[0], places(block + 1, 0, 1)[0]
        low, high = np.searchsorted(self._labels["place"], [begin, end])
        part: Array = np.array(self._labels[low:high])
        return part

    def _parts(self) -> Iterator[Array]:
        for start in range(0, len(self._labels), 1 << 20):
            yield self._labels[start : start + (1 << 20)]


def write_labels(path: Path, edge_files: Sequence[Path], memory: int) -> None:
    """Find the groups of the documents in edges, in batches of at most ``memory`` bytes, and write them."""

    def edges() -> Iterable[Array]:
        return _batches(edge_files, max(_EDGE_BYTES, memory // 8))

    found, first = components(edges)
    labels = np.empty(len(found), _LABEL)
    labels["place"], labels["first"] = found, first
    with opened(path) as file:
        np.save(file, labels)


def _batches(files: Sequence[Path], most_bytes: int) -> Iterator[Array]:
    waiting: list[Array] = []
    size = 0
    for path in files:
        with path.open("rb") as file:
            while data := file.read(most_bytes // _EDGE_BYTES * _EDGE_BYTES):
                waiting.append(np.frombuffer(data, "<u8").reshape(-1, 2))
                size += len(data)
                if size >= most_bytes:
                    yield np.concatenate(waiting)
                    waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting)
