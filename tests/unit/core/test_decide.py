"""What the driver does next, as values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.core import decide
from gpuexec.core.decide import StageView, StartReason

IDLE = StageView(
    queued=0,
    requeued=0,
    batch_size=4,
    upstream_done=False,
    in_flight=0,
    live=0,
    starting=0,
    pending=3,
    has_fixed_count=False,
    uses_gpu=False,
)


@pytest.mark.parametrize(("queued", "done", "batches"), [(0, True, 0), (3, False, 0), (3, True, 1), (9, False, 2)])
def test_a_rest_is_a_batch_only_at_the_end(queued, done, batches):
    assert decide.batches_ready(replace(IDLE, queued=queued, upstream_done=done)) == batches


@pytest.mark.parametrize(("queued", "batches"), [(0, 0), (3, 1), (4, 1), (9, 2)])
def test_a_rest_that_is_due_is_a_batch_unless_full_ones_go_first(queued, batches):
    assert decide.batches_ready(replace(IDLE, queued=queued), rest_is_due=True) == batches


def test_a_stage_is_finished_when_nothing_is_left_and_nothing_comes():
    done = replace(IDLE, upstream_done=True)
    assert decide.is_finished(done)
    assert not decide.is_finished(IDLE)
    assert not decide.is_finished(replace(done, queued=1))
    assert not decide.is_finished(replace(done, requeued=1))
    assert not decide.is_finished(replace(done, in_flight=1))


@pytest.mark.parametrize(
    ("batch_s", "size", "limit"),
    [(None, 1, 1), (0.5, 1, 1), (0.1, 1, 2), (0.001, 1, 20), (1e-9, 1, 128), (0.001, 16e6, 4), (0.001, 1e9, 2)],
)
def test_the_prefetch_limit_covers_twenty_milliseconds_and_bounded_bytes(batch_s, size, limit):
    assert decide.prefetch_limit(batch_s, size) == limit


@given(st.integers(0, 200), st.lists(st.integers(0, 10), max_size=8), st.integers(1, 12))
def test_batches_are_dealt_evenly_within_the_limit(ready, in_flight, limit):
    dealt = decide.share_out(ready, in_flight, limit)
    after = [a + b for a, b in zip(in_flight, dealt, strict=True)]
    free = sum(max(0, limit - count) for count in in_flight)
    assert sum(dealt) == min(ready, free)
    assert all(count <= max(limit, before) for count, before in zip(after, in_flight, strict=True))
    given_some = [count for count, new in zip(after, dealt, strict=True) if new]
    if given_some:
        assert max(given_some) <= min(after) + 1, "no worker gets another batch while one has two fewer"


def test_workers_of_a_fixed_stage_start_at_once():
    assert decide.workers_to_start(replace(IDLE, has_fixed_count=True)) == (3, StartReason.FIXED)


def test_a_stage_begins_with_one_worker():
    assert decide.workers_to_start(IDLE) == (1, StartReason.FIRST)


def test_a_finished_stage_starts_nothing():
    assert decide.workers_to_start(replace(IDLE, upstream_done=True, has_fixed_count=True))[0] == 0


def test_a_gpu_stage_takes_its_reserved_shares_unless_little_is_left():
    view = replace(IDLE, uses_gpu=True, live=1)
    assert decide.workers_to_start(view) == (3, StartReason.GPU_STAGE)
    assert decide.workers_to_start(replace(view, upstream_done=True, queued=5))[0] == 2
    assert decide.workers_to_start(replace(view, upstream_done=True, queued=5, starting=2))[0] == 0


def test_a_worker_of_a_cpu_stage_that_ended_is_replaced_while_there_is_work():
    view = replace(IDLE, live=1, pending=1)
    assert decide.workers_to_start(view) == (1, StartReason.REPLACEMENT)
    assert decide.workers_to_start(replace(view, upstream_done=True, queued=4)) == (1, StartReason.REPLACEMENT)
    assert decide.workers_to_start(replace(view, upstream_done=True, in_flight=1))[0] == 0
    assert decide.workers_to_start(replace(view, pending=0))[0] == 0


gpus = st.lists(st.sampled_from("abcd"), max_size=2, unique=True).map(tuple)


@given(st.lists(gpus, max_size=6), st.lists(gpus, max_size=3), st.integers(1, 5))
def test_one_setup_a_gpu_and_a_cap_a_node(waiting, running, cap):
    named = [(f"w{i}", held) for i, held in enumerate(waiting)]
    chosen = decide.next_setups(named, running, cap)
    assert len(chosen) <= max(0, cap - len(running))
    taken = [uuid for held in running for uuid in held]
    for name, held in named:
        if name in chosen:
            assert not set(held) & set(taken)
            taken += held
    if len(running) + len(chosen) < cap:
        for name, held in named:
            assert name in chosen or set(held) & set(taken), "no worker waits without need"


@given(st.integers(1, 100), st.none() | st.floats(0.0, 10.0), st.floats(0, 1e9))
def test_a_worker_with_calls_side_by_side_gets_as_many_and_some_that_wait(at_once, batch_s, batch_bytes):
    limit = decide.concurrent_limit(at_once, batch_s, batch_bytes)
    assert at_once <= limit <= at_once + decide.prefetch_limit(batch_s, batch_bytes)
    if batch_s is None or batch_s > 0.2:
        assert limit == at_once
