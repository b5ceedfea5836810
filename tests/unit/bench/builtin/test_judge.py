"""Figures are judged only where that is fair, and then rightly."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.bench.builtin.judge import Finding, Judgement, expected, judge
from gpuexec.bench.builtin.model import Figure, MachineResult

SAME = {"cpu": "A", "kernel": "6.1"}


def result(*values: float, better: str = "higher", **changes: Any) -> MachineResult:
    figure = Figure("g.f", "figure", "MB/s", better, values, **{"conditions": SAME, **changes})
    return MachineResult(0.0, 1.0, False, "0.1.0", {"usable_cpus": 2}, (figure,))


def judged(now: MachineResult, *others: MachineResult) -> Judgement:
    (found,) = judge(now, others)
    return found


def test_there_is_nothing_to_compare_the_first_one_with():
    assert judged(result(10, 11)).finding is Finding.FIRST


def test_what_was_not_measured_says_why():
    found = judged(result(reason="no driver"), result(10))
    assert (found.finding, found.reason) == (Finding.NOT_MEASURED, "no driver")


@pytest.mark.parametrize(
    ("value", "better", "finding"),
    [
        (100, "higher", Finding.AS_BEFORE),
        (120, "higher", Finding.AS_BEFORE),
        (130, "higher", Finding.SEEN_BETTER),
        (70, "higher", Finding.SEEN_WORSE),
        (130, "lower", Finding.SEEN_WORSE),
        (70, "lower", Finding.SEEN_BETTER),
    ],
)
def test_beside_one_measurement_only_a_large_difference_is_seen(value: float, better: str, finding: Finding):
    assert judged(result(value, value, better=better), result(100, 100, better=better)).finding is finding


def test_beside_several_a_small_difference_is_shown_if_they_agree():
    earlier = [result(100), result(101), result(99), result(100)]
    assert judged(result(92, 92), *earlier).finding is Finding.WORSE
    assert judged(result(108, 108), *earlier).finding is Finding.BETTER
    assert judged(result(97, 97), *earlier).finding is Finding.AS_BEFORE  # within 5 %
    noisy = [result(100), result(130), result(80), result(110)]
    assert judged(result(92, 92), *noisy).finding is Finding.AS_BEFORE


def test_other_conditions_are_named_and_refuse_a_verdict():
    found = judged(result(200, 200), result(100, conditions={**SAME, "kernel": "5.4"}))
    assert found.finding is Finding.NO_VERDICT
    assert found.reason == "kernel: 5.4 → 6.1"
    assert found.ratio == 2


def test_of_earlier_runs_those_under_the_same_conditions_count():
    other = result(500, conditions={**SAME, "kernel": "5.4"})
    found = judged(result(100, 100), result(100), other)
    assert (found.finding, found.before, found.n) == (Finding.AS_BEFORE, 100, 1)


@pytest.mark.parametrize("which", ["now", "before"])
def test_a_disturbance_refuses_a_verdict(which: str):
    runs = {"now": {}, "before": {}, which: {"doubts": ("others took 1.5 of 2 CPUs",)}}
    found = judged(result(50, 50, **runs["now"]), result(100, 100, **runs["before"]))
    assert found.finding is Finding.NO_VERDICT
    assert str(found.reason).endswith("others took 1.5 of 2 CPUs")
    assert str(found.reason).startswith("when it was measured before") == (which == "before")


def test_repeats_that_lie_far_apart_refuse_a_verdict():
    found = judged(result(50, 100, 150), result(100))
    assert found.finding is Finding.NO_VERDICT
    assert "repeats differ" in str(found.reason)


def test_one_more_measurement_is_inside_the_expected_interval_as_often_as_promised():
    chance = random.Random(3)
    inside = 0
    for _ in range(2000):
        values = [chance.gauss(100, 10) for _ in range(6)]
        low, high = expected(values[:5])
        inside += low <= values[5] <= high
    assert 0.93 < inside / 2000 < 0.97


@given(st.lists(st.lists(st.floats(0, 1e12), min_size=0, max_size=4), min_size=1, max_size=6))
def test_any_figures_get_a_finding(values: list[list[float]]):
    now, *others = (result(*each, reason=None if each else "none") for each in values)
    found = judged(now, *others)
    assert (found.finding is Finding.NO_VERDICT) <= (found.reason is not None)
