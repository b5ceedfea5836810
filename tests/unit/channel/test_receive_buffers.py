"""Buffers that payloads are read into: used again, but never while anything refers to them."""

from __future__ import annotations

import gc
import mmap
import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel import codec, receive_buffers
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.receive_buffers import LARGE, receive_buffer
from gpuexec.channel.segments import PAGE, SegmentPool
from gpuexec.units import MIB


@pytest.fixture(autouse=True)
def none_kept(monkeypatch):
    monkeypatch.setattr(receive_buffers, "_kept", deque())


def address(buffer: object) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data  # type: ignore[call-overload]


def test_a_small_buffer_is_plain_memory():
    assert isinstance(receive_buffer(LARGE - 1).obj, bytearray)


def test_a_buffer_is_used_again_when_nothing_refers_to_it():
    first = receive_buffer(16 * MIB)
    at = address(first)
    del first
    assert address(receive_buffer(16 * MIB - 100)) == at


@pytest.mark.parametrize(
    "refer",
    [
        lambda view: np.frombuffer(view, np.uint8)[5:9],
        lambda view: view[1:2],
        lambda view: memoryview(np.frombuffer(view[:8], np.float64)).toreadonly(),
        lambda view: pytest.importorskip("pyarrow").py_buffer(view),
        lambda view: [{"deep": (view[3:],)}],
    ],
)
def test_whatever_refers_to_a_part_of_a_buffer_keeps_it(refer):
    view = receive_buffer(4 * MIB)
    at = address(view)
    kept = refer(view)
    del view
    assert address(receive_buffer(4 * MIB)) != at
    del kept
    gc.collect()
    assert address(receive_buffer(4 * MIB)) == at


def test_a_buffer_is_not_used_for_a_much_smaller_one_that_would_hold_it():
    at = address(receive_buffer(16 * MIB))
    assert address(receive_buffer(14 * MIB)) != at


def test_what_is_kept_for_the_next_payload_is_bounded():
    views = [receive_buffer(8 * MIB) for _ in range(20)]
    assert sum(map(len, receive_buffers._kept)) <= 64 * MIB
    del views
    receive_buffer(100 * MIB)
    assert not receive_buffers._kept, "a larger one goes back to the system at once"


def test_a_child_that_the_stage_forks_has_memory_of_its_own():
    view = receive_buffer(LARGE)
    view[0] = 1
    child = os.fork()
    if not child:
        view[0] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert view[0] == 1


def test_a_system_without_huge_pages(monkeypatch):
    class Mapping(mmap.mmap):
        def madvise(self, *arguments: object) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(receive_buffers.mmap, "mmap", Mapping)
    assert len(receive_buffer(LARGE)) == LARGE


steps = st.lists(st.tuples(st.sampled_from(["add", "drop", "keep a part"]), st.integers(0, 9)), max_size=40)


@given(steps)
def test_no_two_living_payloads_ever_share_memory(steps):
    """Payloads come and go in any order; parts of some outlive them. What lives is as it arrived."""
    pool, living, number = SegmentPool(), [], 0
    sizes = [LARGE, LARGE + 5 * PAGE, LARGE * 9 // 8, 3 * MIB, 100]
    for step, which in steps:
        if step == "add":
            number += 1
            ref = store(codec.encode([np.full(sizes[which % 5], number % 251, np.uint8), np.zeros(30_000)]), pool)
            arrived = load(ref)
            pool.keep(ref.segment)  # its bytes are overwritten by the next
            living.append((number % 251, arrived[0]))
        elif living:
            value, array = living.pop(which % len(living))
            if step == "keep a part":
                living.append((value, array[which : which + 50]))
    for value, array in living:
        assert (array == value).all()
        array[:] = 255  # it is writable, and seen nowhere else
    living = [array for _, array in living]
    for place, array in enumerate(living):
        array[:] = place
    assert all((array == place).all() for place, array in enumerate(living))
    pool.close()


def test_memory_held_by_what_a_stage_keeps():
    """Of each task of 64 MiB one buffer of 16 MiB is kept: the process holds hardly more than that."""
    pool = SegmentPool()
    task = [np.ones(16 * MIB, np.uint8) for _ in range(4)]
    ref = store(codec.encode(task), pool)
    del task
    before = _resident()
    kept = [load(ref)[1] for _ in range(24)]
    assert _resident() - before < 1.2 * 24 * 16 * MIB
    assert all((array == 1).all() for array in kept)
    ref.segment.close()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
