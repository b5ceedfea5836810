"""Read-only views of segments, for stages that promise not to write."""

from __future__ import annotations

import warnings
from collections import deque

import numpy as np
import pytest

from gpuexec.channel import codec, receive_buffers
from gpuexec.channel.messages import Work
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.segments import SegmentPool, SegmentViews
from gpuexec.channel.spill import SpillFiles
from gpuexec.worker.inbox import Inbox
from tests.process.stages import Item

SIZE = 3 * 2**20


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(receive_buffers, "_kept", deque())
    pool = SegmentPool()
    yield pool
    pool.close()


def stored(pool: SegmentPool, *values: object) -> SegmentRef:
    ref = store(codec.encode(list(values)), pool)
    assert isinstance(ref, SegmentRef)
    return ref


def test_a_large_array_is_a_read_only_view_and_small_ones_beside_it_are_copied(pool):
    views = SegmentViews()
    small, large, word = load(stored(pool, np.arange(9), np.full(SIZE, 7, np.uint8), "word"), views)
    assert not large.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1
    assert (large == 7).all()
    small[0] = 5
    assert list(small[:3]) == [5, 1, 2]
    assert word == "word"


def test_a_buffer_that_is_not_nearly_all_of_its_payload_is_copied(pool):
    arrays = load(stored(pool, *(np.full(SIZE, value, np.uint8) for value in range(3))), SegmentViews())
    assert all(array.flags.writeable for array in arrays)
    assert [array.mean() for array in arrays] == [0, 1, 2]


def test_a_payload_anywhere_in_a_segment(pool):
    segment = pool.acquire(2 * SIZE + 10_000)
    encoded = codec.encode([np.full(SIZE, 3, np.uint8)])
    segment.write(encoded.parts, 4096 + 64)
    (array,) = load(SegmentRef(segment, 4096 + 64, encoded.size, exclusive=False), SegmentViews())
    assert (array == 3).all()
    assert not array.flags.writeable


def test_code_that_writes_all_the_same_does_not_change_the_segment(pool):
    ref = stored(pool, np.full(SIZE, 7, np.uint8))
    (array,) = load(ref, SegmentViews())
    (np.ctypeslib.ctypes.c_char * 100).from_address(array.ctypes.data)[0] = b"x"
    assert array[0] == ord("x")
    assert (load(ref)[0] == 7).all(), "another attempt gets what was sent"


def test_what_is_on_disk_is_copied(pool, tmp_path):
    files = SpillFiles(str(tmp_path))
    (array,) = load(files.store(stored(pool, np.full(SIZE, 7, np.uint8))), SegmentViews())
    files.close()
    assert array.flags.writeable
    assert (array == 7).all()


def test_a_system_that_refuses_to_map(pool, monkeypatch):
    ref = stored(pool, np.full(SIZE, 7, np.uint8))

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(24, "Too many open files")

    load(ref)  # makes the receive buffer
    monkeypatch.setattr("gpuexec.channel.segments.mmap.mmap", refuse)
    (array,) = load(ref, SegmentViews())
    assert array.flags.writeable
    assert (array == 7).all()


def test_tensors(pool):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tensor,) = load(stored(pool, torch.full((SIZE,), 7, dtype=torch.uint8)), SegmentViews())
    assert bool((tensor == 7).all())


def _work(ref: SegmentRef, slices: list[list[int] | None], counts: list[int]) -> Work:
    return Work(list(range(len(counts))), counts, slices, None, payloads=(ref,))


@pytest.mark.parametrize("keep", [False, True])
def test_a_segment_is_released_only_if_no_view_of_it_is_left(pool, keep):
    released = []
    inbox = Inbox(released.append, reads_only=True)
    ref = stored(pool, Item("d", np.full(SIZE, 7, np.uint8)))
    inbox.accept(_work(ref, [None], [1]))
    tasks, _ = inbox.take(1)
    kept = tasks[0].data[10:20] if keep else None
    del tasks
    assert inbox.done() is not keep
    assert released == ([] if keep else [ref.segment])
    assert kept is None or (kept == 7).all()
    inbox.accept(_work(ref, [None], [1]))
    assert inbox.take(1)[0][0].data.flags.writeable is keep, "who keeps what it gets, gets copies"
    assert inbox.done()


def test_a_segment_is_not_released_while_the_next_batch_has_a_view_of_it(pool):
    released = []
    inbox = Inbox(released.append, reads_only=True)
    ref = stored(pool, Item("d", 1), Item("d", np.full(SIZE, 7, np.uint8)))
    inbox.accept(_work(ref, [[0, 1], [1, 2, 0]], [1, 1]))
    inbox.take(1)
    assert not inbox.done()
    assert (inbox.take(1)[0][0].data == 7).all()
    assert inbox.done()
    assert not released
    inbox.accept(_work(ref, [None], [2]))
    assert not inbox.take(2)[0][1].data.flags.writeable, "the stage has kept nothing, so it still gets views"


def test_segments_that_come_to_be_written_to(pool):
    ref, spare = stored(pool, Item("d", np.zeros(SIZE, np.uint8))), pool.acquire(SIZE)
    inbox = Inbox(pool.keep)
    work = Work([0], [1], [None], None, payloads=(ref, SegmentRef(spare, 0, spare.capacity, exclusive=True)))
    assert inbox.accept(work) == [spare]
    assert len(inbox.take(1)[0]) == 1
