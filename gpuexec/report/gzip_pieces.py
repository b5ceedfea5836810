"""A gzip file made of pieces that are compressed one by one, valid after every write.

Each piece is a deflate stream that ends on a byte boundary and refers to nothing before it, so pieces can be put one
after the other, left out or replaced without compressing anything again (RFC 1951, 3.2). Behind the pieces there is a
tail: a block that is stored as it is, the checksum and the length (RFC 1952). The next write replaces it, so a file
whose writer has been killed can be read like any other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no time of change, no operating system
_LEVEL = 4  # twice as fast as the default, and a tenth larger
_RAW = -zlib.MAX_WBITS
_POLYNOMIAL = 0xEDB88320  # of CRC-32, the lowest power first
_ONE = 1 << 31  # x to the power of 0

HEADER_BYTES = len(_HEADER)


class Piece(NamedTuple):
    """Compressed text. ``checksum`` and ``size`` are those of the text, in bytes."""

    data: bytes
    checksum: int
    size: int


class Sum(NamedTuple):
    """Checksum and length of a text, which may consist of several pieces."""

    checksum: int = 0
    size: int = 0

    def followed_by(self, checksum: int, size: int) -> Sum:
        """Return the sum of this text with another one behind it, whose checksum and size these are."""
        return Sum(joined_checksum(self.checksum, checksum, size), self.size + size)


class Compressor:
    """Makes one piece in several steps, each of which yields bytes that can be decompressed."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
        self.sum = Sum()

    def add(self, text: bytes, *, last: bool = False) -> bytes:
        """Return the next bytes of the piece. ``last``: nothing is added to it any more."""
        self.sum = Sum(zlib.crc32(text, self.sum.checksum), self.sum.size + len(text))
        flush = zlib.Z_FULL_FLUSH if last else zlib.Z_SYNC_FLUSH
        return self._compressor.compress(text) + self._compressor.flush(flush)


def compressed(text: bytes) -> Piece:
    """Compress a text into one piece."""
    compressor = Compressor()
    data = compressor.add(text, last=True)
    return Piece(data, *compressor.sum)


def header() -> bytes:
    """Return what the file begins with."""
    return _HEADER


def tail(before: Sum, text: bytes) -> bytes:
    """Return what the file ends with: ``text``, of 64 KiB at most, behind what ``before`` is the sum of."""
    whole = Sum(zlib.crc32(text, before.checksum), before.size + len(text))
    last_block = b"\x01" + struct.pack("<HH", len(text), len(text) ^ 0xFFFF)
    return last_block + text + struct.pack("<II", whole.checksum, whole.size & 0xFFFFFFFF)


def joined_checksum(first: int, second: int, second_size: int) -> int:
    """Return the CRC-32 of two texts behind each other from that of each, and from the size of the second in bytes.

    A checksum is a polynomial over two elements, reduced; to append n bytes multiplies it by x to the power of 8 n.
    """
    return _product(first, _power_of_x(8 * second_size)) ^ second


def _power_of_x(exponent: int) -> int:
    power, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            power = _product(power, square)
        square = _product(square, square)
        exponent >>= 1
    return power


def _product(left: int, right: int) -> int:
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = left << 1 & 0xFFFFFFFF
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product


def joined(pieces: Iterable[Piece], end: bytes) -> bytes:
    """Return a whole file of these pieces, with ``end`` as its last text."""
    total, parts = Sum(), [_HEADER]
    for piece in pieces:
        parts.append(piece.data)
        total = total.followed_by(piece.checksum, piece.size)
    return b"".join([*parts, tail(total, end)])
