"""Tasks as they arrive: each is handed out once, in order, however blocks and messages divide them."""

from __future__ import annotations

from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel import codec
from gpuexec.channel.messages import Work
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.payload_store import store
from gpuexec.channel.segments import SegmentPool
from gpuexec.worker.inbox import Inbox


def never(_segment):
    raise AssertionError("nothing here has a segment of its own")


@st.composite
def deliveries(draw):
    """Blocks of numbers, cut into batches and messages as a driver does."""
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    numbers = count()
    blocks = [[next(numbers) for _ in range(size)] for size in sizes]
    batch = draw(st.integers(1, 10))
    places = [(p, i) for p, block in enumerate(blocks) for i in range(len(block))]
    batches = [places[i : i + batch] for i in range(0, len(places), batch)]
    works, at_worker = [], None
    for cut in _chunks(batches, draw(st.integers(1, 5))):
        slices, payloads = [], []
        for batch_places in cut:
            for p, start, stop in _slices(batch_places):
                if at_worker == (p, start):
                    slices.append([start, stop, 0])
                else:
                    slices.append(None if stop - start == len(blocks[p]) else [start, stop])
                    payloads.append(codec.encode(blocks[p]).join())
                at_worker = (p, stop)
        works.append(Work(list(range(len(cut))), [len(b) for b in cut], slices, payloads=tuple(payloads)))
    return works, batch, next(numbers)


def _chunks(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def _slices(places):
    slices = []
    for p, i in places:
        if slices and slices[-1][0] == p:
            slices[-1] = (p, slices[-1][1], i + 1)
        else:
            slices.append((p, i, i + 1))
    return slices


@given(deliveries(), st.booleans())
def test_every_task_is_handed_out_once_and_in_order(delivery, ahead):
    works, _, total = delivery
    inbox, seen = Inbox(never), []
    if ahead:  # several messages may wait
        for work in works:
            inbox.accept(work)
    for work in works:
        if not ahead:
            inbox.accept(work)
        for size in work.counts:
            tasks, _ = inbox.take(size)
            assert len(tasks) == size
            assert inbox.take_again() == tasks
            inbox.done()
            seen += tasks
    assert seen == list(range(total))


def test_a_batch_can_be_unpickled_again_as_it_arrived():
    pool = SegmentPool()
    payload = store(codec.encode([np.zeros(100_000)]), pool)
    assert isinstance(payload, SegmentRef)
    released = []
    inbox = Inbox(released.append)
    inbox.accept(Work([1], [1], [None], payloads=(payload,)))
    (array,), size = inbox.take(1)
    assert size == payload.length
    array += 1
    (again,) = inbox.take_again()
    assert not again.any()
    assert array.all()
    assert not released, "it is still needed if the batch is retried"
    inbox.done()
    assert released == [payload.segment]
    payload.segment.close()


def test_a_segment_that_other_batches_read_too_is_not_released():
    pool = SegmentPool()
    payload = store(codec.encode([np.zeros(100_000), 1, 2]), pool)
    inbox = Inbox(never)
    inbox.accept(Work([1], [2], [[0, 2]], payloads=(payload,)))
    inbox.take(2)
    inbox.done()
    payload.segment.close()
