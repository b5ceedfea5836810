"""Waiting tasks: nothing is lost, doubled or reordered, however they are dealt out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.segments import Segment
from gpuexec.core.batch import Block, place_among_siblings
from gpuexec.core.queue import TaskQueue


def block(first: int, size: int, payload: bytes = b"12345678") -> Block:
    numbers = range(first, first + size)
    return Block(payload, [str(n) for n in numbers], [place_among_siblings(n) for n in numbers], 0.0)


@given(st.lists(st.integers(1, 9), max_size=12), st.data())
def test_tasks_leave_in_the_order_they_came(sizes, data):
    queue, total = TaskQueue(), sum(sizes)
    first = 0
    for size in sizes:
        queue.push((block(first, size), 0, size))
        first += size
    taken: list[str] = []
    while len(queue):
        count = data.draw(st.integers(1, 15))
        slices = queue.take(count)
        ids = [task_id for p, start, stop in slices for task_id in p.task_ids[start:stop]]
        assert len(ids) == min(count, total - len(taken))
        taken += ids
        assert len(queue) == total - len(taken)
    assert taken == [str(n) for n in range(total)]
    assert queue.bytes == queue.segments == 0
    assert queue.take(3) == []


def test_bytes_and_segments_are_counted_by_what_waits():
    queue = TaskQueue()
    queue.push((block(0, 4), 0, 4))
    in_segment = block(4, 1, SegmentRef(Segment(-1, 4096), 0, 100, exclusive=True))  # type: ignore[arg-type]
    queue.push((in_segment, 0, 1))
    assert (queue.bytes, queue.segments) == (108, 1)
    queue.take(3)
    assert queue.bytes == 102
    queue.take(1)
    assert queue.bytes == 100
    queue.take(1)
    assert (queue.bytes, queue.segments) == (0, 0)


def test_a_part_of_a_parcel_may_be_left_out():
    queue = TaskQueue()
    whole = block(0, 5)
    queue.push((whole, 0, 2))
    queue.push((whole, 3, len(whole)))
    assert queue.take(9) == [(whole, 0, 2), (whole, 3, 5)]


@given(st.lists(st.integers(0, 2**70), min_size=2, max_size=2), st.lists(st.integers(0, 2**70), max_size=3))
def test_places_sort_as_the_numbers_do(pair, deeper):
    a, b = pair
    tail = b"".join(map(place_among_siblings, deeper))
    first, second = place_among_siblings(a) + tail, place_among_siblings(b)
    if a != b:
        assert (first < second) == (a < b)
        assert not second.startswith(place_among_siblings(a)), "no place is the beginning of another"
