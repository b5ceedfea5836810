"""Finds documents with equal keys among records that come in batches, in bounded memory.

A *record* is a key and a document. A document is known by its *place*: the number of its block and its number in there,
in one integer, so that places sort as the input does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])  # a digest as two numbers
_ROW_BITS = 40  # a block has fewer than 2**40 documents, so there are fewer than 2**24 blocks
_ROW_MASK = (1 << _ROW_BITS) - 1

COPIES = 6  # how many times its own size a batch of records needs to be sorted and compared, at most


def places(block: int, first_row: int, count: int) -> Array:
    """Return the places of ``count`` documents of a block, from row ``first_row`` on."""
    return np.arange(first_row, first_row + count, dtype=np.uint64) + np.uint64(block << _ROW_BITS)


def block_of(place: int) -> int:
    """Return the number of the block of a document."""
    return int(place) >> _ROW_BITS


def row_of(place: int) -> int:
    """Return the number of a document in its block."""
    return int(place) & _ROW_MASK


def blocks_of(at: Array) -> Array:
    """Return the numbers of the blocks of documents, int64."""
    return (at >> np.uint64(_ROW_BITS)).astype(np.int64)


def rows_of(at: Array) -> Array:
    """Return the numbers of documents in their blocks, int64."""
    return (at & np.uint64(_ROW_MASK)).astype(np.int64)


def records_of(keys: Array, at: Array) -> Array:
    """Return the records of documents with keys uint8[n, 16]."""
    records = np.empty(len(keys), RECORD)
    numbers = np.ascontiguousarray(keys).view("<u8")
    records["high"], records["low"], records["place"] = numbers[:, 0], numbers[:, 1], at
    return records


def share_of(records: Array, shares: int) -> Array:
    """Return in which of ``shares`` shares the key of each record is."""
    return (records["high"] % np.uint64(shares)).astype(np.intp)


def pass_of(records: Array, passes: int) -> Array:
    """Return in which of ``passes`` passes over a share each record is compared. Independent of `share_of`."""
    return (records["low"] % np.uint64(passes)).astype(np.intp)


def edges_between(batches: Iterable[Array]) -> Iterator[Array]:
    """Yield edges [n, 2] of places that connect the documents of each key: the first one of the key, and another.

    Of what is past, one record of each key stays in memory.
    """
    kept = np.empty(0, RECORD)
    for batch in batches:
        found = np.concatenate([kept, batch])
        found = found[np.lexsort((found["place"], found["low"], found["high"]))]
        begins = np.ones(len(found), bool)
        begins[1:] = (found["high"][1:] != found["high"][:-1]) | (found["low"][1:] != found["low"][:-1])
        kept = found[begins]
        first_of_key = kept["place"][np.cumsum(begins) - 1]
        edges = np.stack([first_of_key[~begins], found["place"][~begins]], axis=1)
        if len(edges):
            yield edges
