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
    times.add(stats(0.02, idle=1.0), warm=True)
    times.add(stats(9.0, idle=5.0), warm=False)
    assert (times.batch_s, times.is_measured) == (0.02, False)
    times.add(stats(0.04), warm=True)
    assert times.is_measured
    assert times.batch_s == pytest.approx(0.03)
    assert (times.busy_s, times.idle_s) == (pytest.approx(0.06), 1.0)


def test_one_long_batch_is_enough_and_so_are_ten_cold_ones():
    slow = ServiceTimes()
    slow.add(stats(5.0), warm=True)
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


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=30))
def test_the_mean_stays_within_what_was_measured(seconds):
    times = ServiceTimes()
    for second in seconds:
        times.add(stats(second), warm=True)
    assert min(seconds) * (1 - 1e-9) <= times.batch_s <= max(seconds) * (1 + 1e-9)
