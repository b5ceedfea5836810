"""The rate of a stage: steady where batches are rare, and falling once one is overdue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.observe.stage_rates import StageRate


def rates(readings, window_s=5.0):
    rate = StageRate(window_s)
    return [rate.update(at, done, works=True) for at, done in readings]


def test_the_window_is_the_last_five_seconds():
    assert rates([(0.0, 0), (2.0, 10)]) == [None, 5.0]
    every_second = [(float(n), 100 * n if n < 50 else 5000 + 10 * (n - 50)) for n in range(80)]
    assert rates(every_second)[49] == pytest.approx(100)
    assert rates(every_second)[-1] == pytest.approx(10)


def test_a_batch_every_ten_seconds_is_a_steady_rate():
    readings = [(0.2 * n, int(0.2 * n / 10) * 64) for n in range(1500)]
    later = [rate for (at, _), rate in zip(readings, rates(readings), strict=True) if at > 60]
    assert max(later) == pytest.approx(6.4, rel=0.02)
    assert min(later) == pytest.approx(6.4, rel=0.02)


def test_a_stage_that_is_stuck_slows_down():
    readings = [(float(n), min(n, 10)) for n in range(100)]
    shown = rates(readings)
    assert shown[10] == pytest.approx(1)
    assert shown[99] < 0.1


def test_the_time_before_the_first_worker_is_ready_does_not_count():
    rate = StageRate(5.0)
    for at in range(30):
        assert rate.update(float(at), 0, works=False) is None
    rate.update(30.0, 0, works=True)
    assert rate.update(32.0, 20, works=True) == pytest.approx(20 / 3), "it was ready after 29 s at the earliest"


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1000)), min_size=1, max_size=200), st.floats(0.1, 60))
def test_a_rate_is_never_negative_and_its_memory_is_bounded(steps, window_s):
    rate, at, done = StageRate(window_s), 0.0, 0
    for wait, more in steps:
        at, done = at + wait, done + more
        shown = rate.update(at, done, works=True)
        assert shown is None or shown >= 0
    moments = [moment for moment, _ in rate._changes]
    assert len(moments) <= 5 or moments[-1] - moments[1] < window_s
