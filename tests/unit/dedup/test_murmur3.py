"""The hashes of slices of a buffer are those of MurmurHash3."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.dedup.murmur3 import hash32, hash64
from tests.unit.dedup.scalar import murmur32, murmur64


def whole(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.frombuffer(data, np.uint8), np.array([0]), np.array([len(data)])


@pytest.mark.parametrize(
    ("data", "seed", "expected"),  # published with the algorithm and in its ports
    [
        (b"", 0, 0),
        (b"", 1, 0x514E28B7),
        (b"", 0xFFFFFFFF, 0x81F16F39),
        (b"test", 0, 0xBA6BD213),
        (b"test", 0x9747B28C, 0x704B81DC),
        (b"Hello, world!", 0, 0xC0363E43),
        (b"Hello, world!", 0x9747B28C, 0x24884CBA),
        (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
        (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
    ],
)
def test_known_hashes_of_32_bits(data: bytes, seed: int, expected: int):
    assert hash32(*whole(data), seed)[0] == expected
    assert murmur32(data, seed) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0), (b"The quick brown fox jumps over the lazy dog", 0xE34BBC7BBC071B6C)],
)
def test_known_hashes_of_64_bits(data: bytes, expected: int):
    assert hash64(*whole(data), 0)[0] == expected
    assert murmur64(data, 0) == expected


@given(st.binary(max_size=80), st.data())
def test_slices_are_hashed_as_if_alone(data: bytes, draw: st.DataObject):
    spans = draw.draw(st.lists(st.tuples(st.integers(0, len(data)), st.integers(0, len(data))).map(sorted), max_size=9))
    starts = np.array([low for low, _ in spans], int)
    lengths = np.array([high - low for low, high in spans], int)
    seed = draw.draw(st.integers(0, (1 << 32) - 1))
    buffer = np.frombuffer(data, np.uint8)
    slices = [data[low:high] for low, high in spans]
    assert hash32(buffer, starts, lengths, seed).tolist() == [murmur32(each, seed) for each in slices]
    assert hash64(buffer, starts, lengths, seed << 30).tolist() == [murmur64(each, seed << 30) for each in slices]
