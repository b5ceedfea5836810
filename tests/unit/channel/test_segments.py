"""Anonymous shared memory: one owner, one release, reuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.segments import PAGE, Segment, SegmentPool, page_aligned, read_segment


@pytest.fixture
def pool():
    pool = SegmentPool()
    yield pool
    pool.close()


@given(st.integers(0, 10 * PAGE))
def test_page_alignment(size):
    aligned = page_aligned(size)
    assert aligned % PAGE == 0
    assert 0 <= aligned - size < PAGE


@given(st.lists(st.binary(max_size=3000), max_size=1500), st.integers(0, 3))
def test_any_number_of_parts_is_written_in_order(parts, pages):
    pool = SegmentPool()
    whole = b"".join(parts)
    segment = pool.acquire(len(whole) + pages * PAGE + 1)
    segment.write(parts, pages * PAGE)
    if whole:
        assert bytes(read_segment(SegmentRef(segment, pages * PAGE, len(whole), exclusive=False))) == whole
    segment.close()
    pool.close()


def test_a_copy_can_be_written_to_without_changing_the_segment(pool):
    segment = pool.acquire(PAGE)
    segment.write([b"abc"], 0)
    ref = SegmentRef(segment, 0, 3, exclusive=False)
    copy = read_segment(ref)
    copy[0] = ord("x")
    assert bytes(read_segment(ref)) == b"abc", "another attempt gets what was sent"


def test_a_segment_that_is_far_too_large_is_not_used_for_a_small_payload(pool):
    large = pool.acquire(100 * PAGE)
    pool.keep(large)
    assert pool.acquire(PAGE) is not large
    assert pool.acquire(50 * PAGE) is large


def test_the_pool_is_bounded(pool):
    segments = [pool.acquire(PAGE) for _ in range(10)]
    for segment in segments:
        pool.keep(segment)
    assert sum(segment.fd >= 0 for segment in segments) == 4


def test_the_last_reference_closes_the_descriptor():
    segment = SegmentPool().acquire(PAGE)
    fd = segment.fd
    del segment
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_closing_twice_is_harmless():
    segment = Segment(os.memfd_create("gpuexec"), PAGE)
    segment.close()
    segment.close()


def test_a_range_beyond_the_end_is_an_error(pool):
    segment = pool.acquire(PAGE)
    with pytest.raises(EOFError, match="short"):
        read_segment(SegmentRef(segment, 0, 2 * PAGE, exclusive=False))


def test_segments_have_no_name(pool):
    segment = pool.acquire(PAGE)
    assert str(Path(f"/proc/self/fd/{segment.fd}").readlink()) == "/memfd:gpuexec (deleted)"
    assert not os.get_inheritable(segment.fd)


def test_trimming_gives_back_the_memory_beyond_a_payload(pool):
    segment = pool.acquire(100 * PAGE)
    segment.write([b"x" * (100 * PAGE)], 0)
    segment.trim(PAGE + 1)
    assert segment.capacity == 2 * PAGE
    assert os.fstat(segment.fd).st_blocks * 512 == 2 * PAGE
    segment.trim(50 * PAGE)
    assert segment.capacity == 2 * PAGE, "it never grows"
    assert bytes(read_segment(SegmentRef(segment, 0, PAGE + 1, exclusive=False))) == b"x" * (PAGE + 1)
