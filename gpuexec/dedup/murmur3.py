"""MurmurHash3 of many slices of one buffer at a time, with NumPy.

The algorithm is Austin Appleby's, in the public domain: x86_32, and the first half of x64_128. Slices of the same
length are hashed together; the n-grams of a text have few different lengths in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BLOCK = 16  # bytes: the longest block of the two variants


def hash32(data: Array, starts: Array, lengths: Array, seed: int) -> Array:
    """Return uint32[n]: x86_32 of ``data[start:start + length]`` for each start and length.

    ``data``: uint8, ``starts`` and ``lengths``: whole numbers.
    """
    words = _words(data, np.uint32)
    mixed = _mixed32(words)

    def of_length(at: Array, length: int) -> Array:
        state = np.full(len(at), seed, np.uint32)
        for position in range(0, length - 3, 4):
            state ^= mixed[at + position]
            state = _rotated(state, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        rest = length % 4
        if rest:
            state ^= _mixed32(words[at + (length - rest)] & np.uint32((1 << 8 * rest) - 1))
        return _avalanche32(state ^ np.uint32(length))

    return _by_length(of_length, starts, lengths, np.uint32)


def hash64(data: Array, starts: Array, lengths: Array, seed: int) -> Array:
    """Return uint64[n]: the first 64 bits of x64_128 for each start and length. The seed may have 64 bits."""
    words = _words(data, np.uint64)

    def of_length(at: Array, length: int) -> Array:
        first = np.full(len(at), seed, np.uint64)
        second = first.copy()
        for position in range(0, length - _BLOCK + 1, _BLOCK):
            first ^= _mixed64(words[at + position])
            first = (_rotated(first, 27) + second) * np.uint64(5) + np.uint64(0x52DCE729)
            second ^= _mixed64_second(words[at + (position + 8)])
            second = (_rotated(second, 31) + first) * np.uint64(5) + np.uint64(0x38495AB5)
        rest, tail = length % _BLOCK, length - length % _BLOCK
        if rest > 8:
            second ^= _mixed64_second(words[at + (tail + 8)] & _low_bytes(rest - 8))
        if rest:
            first ^= _mixed64(words[at + tail] & _low_bytes(min(rest, 8)))
        first, second = first ^ np.uint64(length), second ^ np.uint64(length)
        first = first + second
        second = second + first
        return _avalanche64(first) + _avalanche64(second)

    return _by_length(of_length, starts, lengths, np.uint64)


def _by_length(hash_of: Callable[[Array, int], Array], starts: Array, lengths: Array, kind: Any) -> Array:
    hashes = np.empty(len(starts), kind)
    for length in np.unique(lengths):
        chosen = lengths == length
        if chosen.all():
            return hash_of(starts, int(length))
        hashes[chosen] = hash_of(starts[chosen], int(length))
    return hashes


def _words(data: Array, kind: Any) -> Array:
    """Return the little-endian word that begins at each byte; beyond the end there are zeros."""
    size = np.dtype(kind).itemsize
    padded = np.zeros(len(data) + _BLOCK, np.uint8)
    padded[: len(data)] = data
    words = np.zeros(len(data) + _BLOCK - size + 1, kind)
    for byte in range(size):
        words |= padded[byte : byte + len(words)].astype(kind) << kind(8 * byte)
    return words


def _rotated(value: Array, bits: int) -> Array:
    kind = value.dtype.type
    rotated: Array = (value << kind(bits)) | (value >> kind(8 * value.itemsize - bits))
    return rotated


def _mixed32(word: Array) -> Array:
    return _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _mixed64(word: Array) -> Array:
    return _rotated(word * np.uint64(0x87C37B91114253D5), 31) * np.uint64(0x4CF5AD432745937F)


def _mixed64_second(word: Array) -> Array:
    return _rotated(word * np.uint64(0x4CF5AD432745937F), 33) * np.uint64(0x87C37B91114253D5)


def _low_bytes(count: int) -> np.uint64:
    return np.uint64((1 << 8 * count) - 1)


def _avalanche32(value: Array) -> Array:
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    value ^= value >> np.uint32(16)
    return value


def _avalanche64(value: Array) -> Array:
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    value ^= value >> np.uint64(33)
    return value
