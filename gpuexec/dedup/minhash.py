"""MinHash signatures of texts, with the arithmetic of NeMo Curator's GPU stage, which is that of cuDF's ``minhash``.

Sources: Curator 1.4, ``stages/deduplication/fuzzy/minhash.py`` for the seeds, and cuDF, ``cpp/src/text/minhash.cu``,
for the rest. In short: each n-gram of characters is hashed once, with MurmurHash3. A hash of 0 becomes 1. Permutation i
turns a hash h into ``a[i] * h + b[i]``, in unsigned numbers of 32 or 64 bits that wrap around, modulo 2**61 - 1. The
signature is the minimum of each permutation. A text shorter than an n-gram is one n-gram; an empty text has zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpuexec.dedup.murmur3 import hash32, hash64

Array = np.ndarray[Any, Any]

_PRIME = np.uint64((1 << 61) - 1)
_CHUNK = 1 << 16  # characters that are worked on at a time: their hashes stay in the cache of a core
_PIECE = 1 << 18  # characters of a piece of a long text, so that memory does not grow with the text


def permutations(count: int, seed: int, bits: int) -> tuple[Array, Array]:
    """Return the factors and summands of ``count`` permutations, as Curator draws them. ``bits``: 32 or 64."""
    kind, prime = (np.uint32, (1 << 31) - 1) if bits == 32 else (np.uint64, (1 << 61) - 1)
    chance = np.random.RandomState(seed)
    pairs = [(chance.randint(1, prime, dtype=kind), chance.randint(0, prime, dtype=kind)) for _ in range(count)]
    return np.array([a for a, _ in pairs], kind), np.array([b for _, b in pairs], kind)


class MinHasher:
    """Makes signatures: uint32, or uint64 with ``bits=64``."""

    def __init__(self, num_hashes: int = 260, width: int = 24, seed: int = 42, bits: int = 32) -> None:
        factors, summands = permutations(num_hashes, seed, bits)
        self._set(factors, summands, width, int(factors[0]))

    @classmethod
    def with_parameters(cls, factors: Array, summands: Array, width: int, seed: int) -> MinHasher:
        """Return one with permutations and a seed of the hash function that are not Curator's."""
        made = cls.__new__(cls)
        made._set(factors, summands, width, seed)
        return made

    def _set(self, factors: Array, summands: Array, width: int, seed: int) -> None:
        self._factors, self._summands, self._width, self._seed = factors, summands, width, seed
        self._kind = factors.dtype.type
        self._hash = hash32 if self._kind is np.uint32 else hash64

    def signatures(self, texts: Sequence[str]) -> Array:
        """Return a row of minima for each text, in the order of the texts."""
        result = np.full((len(texts), len(self._factors)), np.iinfo(self._kind).max, self._kind)
        for rows, pieces in self._chunks(texts):
            np.minimum.at(result, rows, self._minima(pieces))
        result[[not text for text in texts]] = 0
        return result

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        """Yield pieces of texts, and the row of each, so many at a time as suits the cache."""
        rows: list[int] = []
        pieces: list[str] = []
        waiting = 0
        for row, text in enumerate(texts):
            for piece in self._pieces(text):
                rows.append(row)
                pieces.append(piece)
                waiting += len(piece)
                if waiting >= _CHUNK:
                    yield rows, pieces
                    rows, pieces, waiting = [], [], 0
        if pieces:
            yield rows, pieces

    def _pieces(self, text: str) -> Iterator[str]:
        """Cut a text so that each of its n-grams is in exactly one piece."""
        overlap = self._width - 1
        for start in range(0, max(len(text) - overlap, min(len(text), 1)), _PIECE):
            yield text[start : start + _PIECE + overlap]

    def _minima(self, pieces: Sequence[str]) -> Array:
        hashes, firsts = self._hashes(pieces)
        minima = np.empty((len(self._factors), len(pieces)), self._kind)
        permuted = np.empty_like(hashes)
        for index, (factor, summand) in enumerate(zip(self._factors, self._summands, strict=True)):
            np.multiply(hashes, factor, out=permuted)
            permuted += summand
            if self._kind is np.uint64:
                permuted %= _PRIME  # numbers of 32 bits are smaller
            np.minimum.reduceat(permuted, firsts, out=minima[index])
        return minima.T

    def _hashes(self, pieces: Sequence[str]) -> tuple[Array, Array]:
        """Return the hashes of all n-grams, and where those of each piece begin."""
        encoded = [piece.encode("utf-8", "surrogatepass") for piece in pieces]
        starts, lengths, counts = [], [], []
        offset = 0
        for piece, data in zip(pieces, encoded, strict=True):
            bounds = _bounds(piece, data)
            grams = max(1, len(piece) - self._width + 1)
            begins = bounds[:grams]
            starts.append(begins + offset)
            lengths.append(bounds[min(self._width, len(piece)) :][:grams] - begins)
            counts.append(grams)
            offset += len(data)
        buffer = np.frombuffer(b"".join(encoded), np.uint8)
        hashes = self._hash(buffer, np.concatenate(starts), np.concatenate(lengths), self._seed)
        return np.maximum(hashes, self._kind(1)), np.concatenate([[0], np.cumsum(counts[:-1])]).astype(np.intp)


def _bounds(text: str, encoded: bytes) -> Array:
    """Return at which byte each character begins, and where the last one ends."""
    if len(text) == len(encoded):
        return np.arange(len(encoded) + 1)
    begins = np.flatnonzero((np.frombuffer(encoded, np.uint8) & 0xC0) != 0x80)
    return np.append(begins, len(encoded))
