"""Intervals hold what they must, and p values are those of SciPy, or of counting every case where SciPy does not."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report.statistics import (
    MOST_RANKED,
    difference_interval,
    difference_p,
    mann_whitney_p,
    mean,
    mean_interval,
    smallest_mann_whitney_p,
    t_probability,
    t_quantile,
)

scipy_stats = pytest.importorskip("scipy.stats")

values = st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=2, max_size=12)
few_values = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=5)  # with many ties
close = pytest.approx


@given(st.integers(1, 2000), st.floats(-50, 50))
def test_student_is_that_of_scipy(degrees: int, t: float):
    # SciPy itself is off by up to 4e-10 for one degree of freedom and t near 0, where the value is 0.5 + atan(t) / pi.
    expected = scipy_stats.t.cdf(t, degrees) if degrees > 1 else 0.5 + math.atan(t) / math.pi
    assert t_probability(t, degrees) == close(expected, abs=1e-3 if degrees > 1000 else 1e-10)


@given(st.integers(1, 1000), st.floats(0.5, 0.9999))
def test_quantiles_are_those_of_scipy(degrees: int, probability: float):
    assert t_quantile(probability, degrees) == close(scipy_stats.t.ppf(probability, degrees), rel=1e-6, abs=1e-9)


@given(values)
def test_an_interval_contains_the_mean(found: list[float]):
    interval = mean_interval(found)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.estimate == close(math.fsum(found) / len(found))


@given(values, values)
def test_differences_are_those_of_scipy_or_wider(first: list[float], second: list[float]):
    interval = difference_interval(first, second)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.estimate == mean(second) - mean(first)
    if min(max(side) - min(side) for side in (first, second)) < 1e-3:
        return  # SciPy warns of lost digits
    expected = scipy_stats.ttest_ind(second, first, equal_var=False)
    whole = math.floor(expected.df + 1e-9)
    if abs(expected.df - whole) <= 1e-9:  # p changes by up to a quarter of what they change by
        assert difference_p(first, second) == close(expected.pvalue, abs=1e-9)
    scale = 1e-9 * max(map(abs, [*first, *second]))
    by_scipy = expected.confidence_interval(0.95)
    assert interval.low <= by_scipy.low + scale
    assert interval.high >= by_scipy.high - scale


@given(values, values)
def test_sides_can_be_swapped(first: list[float], second: list[float]):
    one, other = difference_interval(first, second), difference_interval(second, first)
    assert (one.estimate, one.low, one.high) == close((-other.estimate, -other.high, -other.low))
    assert difference_p(first, second) == close(difference_p(second, first))
    assert mann_whitney_p(first, second) == close(mann_whitney_p(second, first))


@given(values, values)
def test_p_is_5_percent_where_the_interval_begins(first: list[float], second: list[float]):
    interval, p = difference_interval(first, second), difference_p(first, second)
    if min(abs(interval.low), abs(interval.high)) > 1e-6 * max(1.0, interval.high - interval.low):
        assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


@given(few_values, few_values)
def test_ranks_are_counted_exactly_also_with_ties(first: list[float], second: list[float]):
    pooled = [*first, *second]
    ranks = [sum(other < value for other in pooled) + (pooled.count(value) + 1) / 2 for value in pooled]
    expected = len(first) * (len(pooled) + 1) / 2
    distance = abs(sum(ranks[: len(first)]) - expected)
    ways = [sum(chosen) for chosen in combinations(ranks, len(first))]
    assert mann_whitney_p(first, second) == sum(abs(way - expected) >= distance for way in ways) / len(ways)


@given(st.data())
def test_without_ties_it_is_that_of_scipy(data: st.DataObject):
    pooled = data.draw(st.lists(st.integers(0, 10**6), min_size=2, max_size=16, unique=True))
    cut = data.draw(st.integers(1, len(pooled) - 1))
    expected = scipy_stats.mannwhitneyu(pooled[:cut], pooled[cut:], method="exact").pvalue
    assert mann_whitney_p(pooled[:cut], pooled[cut:]) == close(expected)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (4, 4), (MOST_RANKED, MOST_RANKED)])
def test_the_smallest_p_is_that_of_sides_apart(first: int, second: int):
    apart = mann_whitney_p([float(n) for n in range(first)], [100.0 + n for n in range(second)])
    assert apart == close(smallest_mann_whitney_p(first, second))


def test_too_few_and_too_many():
    assert mean_interval([1.0]) is None
    assert difference_interval([1.0], [1.0, 2.0]) is None
    assert difference_p([1.0, 2.0], [1.0]) is None
    assert mann_whitney_p([], [1.0]) is None
    assert mann_whitney_p([0.0] * (MOST_RANKED + 1), [1.0]) is None


def test_values_that_do_not_vary():
    assert difference_p([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert difference_p([2.0, 2.0], [3.0, 3.0]) == 0.0
    assert mean_interval([2.0, 2.0, 2.0]).high == 2.0
