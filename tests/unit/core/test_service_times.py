"""The running means of a stage's service times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.messages import BatchStats
from gpuexec.core.service_times import ServiceTimes


def stats(seconds: float, batches: int = 1, tasks: int = 4, idle: float = 0.0) -> BatchStats:
    return BatchStats(batches=batches, tasks_in=tasks, process_s=seconds, idle_s=idle)


def test_a_cold_workers_times_are_used_only_until_a_warm_one_has_reported():
    times = ServiceTimes()
    times.add(stats(9.0), warm=False)
    assert (times.batch_s, times.task_s, times.is_measured) == (9.0, 9.0 / 4, False)
    times.add(stats(0.002, idle=1.0), warm=True)
    times.add(stats(9.0, idle=5.0), warm=False)
    assert (times.batch_s, times.is_measured) == (0.002, False)
    times.add(stats(0.004), warm=True)
    assert times.is_measured
    assert times.batch_s == pytest.approx(0.003)
    assert (times.busy_s, times.idle_s) == (pytest.approx(0.006), 1.0)


def test_one_long_batch_is_enough_and_so_are_ten_cold_ones():
    slow = ServiceTimes()
    slow.add(stats(0.05), warm=True)
    assert slow.is_measured
    short_lived = ServiceTimes()
    for _ in range(10):
        assert not short_lived.is_measured
        short_lived.add(stats(0.1), warm=False)
    assert short_lived.is_measured


def test_the_shortest_start_up_is_kept():
    times = ServiceTimes()
    for seconds in (3.0, 2.0, 5.0):
        times.add_startup(seconds)
    assert times.startup_s == 2.0


def test_what_a_new_workers_first_batch_takes_longer_belongs_to_its_start_up():
    times = ServiceTimes()
    times.add_startup(0.1)
    times.add(stats(9.0, tasks=2), warm=False)
    assert times.startup_s == 0.1, "nobody knows yet what a later batch takes"
    times.add(stats(1.0, tasks=4), warm=True)
    assert times.startup_s == pytest.approx(0.1 + 9.0 - 2 * 0.25)
    times.add(stats(2.0, tasks=2), warm=False)
    assert times.startup_s == pytest.approx(0.1 + 2.0 - 2 * 0.25), "of the worker that was quickest"
    times.add(stats(0.1, tasks=2), warm=False)
    assert times.startup_s == 0.1


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=30))
def test_the_mean_stays_within_what_was_measured(seconds):
    times = ServiceTimes()
    for second in seconds:
        times.add(stats(second), warm=True)
    assert min(seconds) * (1 - 1e-9) <= times.batch_s <= max(seconds) * (1 + 1e-9)


def test_a_call_beside_others_takes_its_part_of_the_worker():
    times = ServiceTimes()
    for _ in range(2):  # 16 calls of 50 ms side by side: a worker does one each 3 ms
        times.add(BatchStats(batches=16, tasks_in=16, process_s=0.05, slot_s=0.05), warm=True)
    assert times.task_s == pytest.approx(0.05 / 16)
    alone = ServiceTimes()  # one call at a time, of 16 that could be in flight: the worker has hardly anything to do
    alone.add(BatchStats(batches=1, tasks_in=1, process_s=0.05, slot_s=0.05 / 16), warm=True)
    assert alone.task_s == pytest.approx(0.05 / 16)
    assert alone.idle_s == pytest.approx(0.05 - 0.05 / 16)
