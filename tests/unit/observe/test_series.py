"""Time series of bounded size: nothing is lost, gaps stay gaps, and the order of adding does not matter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.observe.series import AmountSeries, SampleSeries, common_width

TIMES = st.floats(-10, 1e6, allow_nan=False)
VALUES = st.floats(-1e9, 1e9, allow_nan=False)
SAMPLES = st.lists(st.tuples(TIMES, VALUES), max_size=60)
INTERVALS = st.lists(st.tuples(TIMES, st.floats(0, 1e5), st.floats(0, 1e6)), max_size=40)
LIMITS = st.integers(1, 9)


def sampled(samples, limit=512, bin_s=0.5) -> SampleSeries:
    series = SampleSeries(0.0, bin_s, limit)
    for at, value in samples:
        series.add(at, value)
    return series


def expected_bins(samples, width) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for at, value in samples:
        found.setdefault(math.floor(max(at, 0.0) / width), []).append(value)
    return found


@given(SAMPLES, LIMITS)
def test_bins_are_those_of_the_samples_at_the_final_width(samples, limit):
    series = sampled(samples, limit)
    expected = expected_bins(samples, series.bin_s)
    assert len(series) <= limit
    for number, found in enumerate(series.bins()):
        values = expected.pop(number, None)
        assert (found is None) == (values is None)
        if found is not None:
            assert (found.samples, found.min, found.max) == (len(values), min(values), max(values))
            assert found.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-6)
            assert found.min <= found.mean <= found.max
    assert not expected


@given(SAMPLES, LIMITS)
def test_count_sum_minimum_and_maximum_of_the_whole_survive_all_merging(samples, limit):
    whole = sampled(samples, limit).whole()
    values = [value for _, value in samples]
    if not values:
        assert whole is None
        return
    assert (whole.samples, whole.min, whole.max) == (len(values), min(values), max(values))
    assert whole.mean * whole.samples == pytest.approx(math.fsum(values), abs=1e-5)


@given(st.data(), SAMPLES, LIMITS)
def test_any_order_of_adding_gives_the_same_bins(data, samples, limit):
    one, other = sampled(samples, limit), sampled(data.draw(st.permutations(samples)), limit)
    assert one.bin_s == other.bin_s
    assert_same(one, other)


@given(st.lists(SAMPLES, min_size=1, max_size=4), LIMITS, st.booleans())
def test_merged_series_are_the_series_of_all_samples(parts, limit, from_the_left):
    series = [sampled(part, limit) for part in parts]
    if from_the_left:
        merged = series[0]
        for other in series[1:]:
            merged.merge(other)
    else:
        merged = series[-1]
        for other in reversed(series[:-1]):
            other.merge(merged)
            merged = other
    assert_same(merged, sampled([sample for part in parts for sample in part], limit))


def assert_same(one: SampleSeries, other: SampleSeries) -> None:
    assert one.bin_s == other.bin_s
    for a, b in zip(one.bins(), other.bins(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.samples, a.min, a.max) == (b.samples, b.min, b.max)
            assert a.mean == pytest.approx(b.mean, rel=1e-9, abs=1e-5)


def test_a_gap_stays_a_gap_until_its_bin_is_merged_with_one_that_is_none():
    series = sampled([(0.1, 1.0), (5.1, 3.0)], limit=16)
    assert [found is None for found in series.bins()] == [False, *[True] * 9, False]
    series.add(15.0, 5.0)  # twice as wide
    assert series.bin_s == 1.0
    assert [found is None for found in series.bins()] == [False, *[True] * 4, False, *[True] * 9, False]


def spread(intervals, limit=512, bin_s=0.5) -> AmountSeries:
    series = AmountSeries(0.0, bin_s, limit)
    for began, seconds, amount in intervals:
        series.spread(began, began + seconds, amount)
    return series


@given(INTERVALS, LIMITS)
def test_amounts_are_preserved_and_never_negative(intervals, limit):
    series = spread(intervals, limit)
    total = math.fsum(amount for _, _, amount in intervals)
    assert len(series) <= limit
    assert series.total() == pytest.approx(total, rel=1e-9, abs=1e-6)
    assert all(amount >= 0 for amount in series.amounts())


@given(INTERVALS, LIMITS)
def test_each_bin_gets_the_part_of_an_interval_that_lies_in_it(intervals, limit):
    series = spread(intervals, limit)
    amounts = series.amounts()
    expected = [0.0] * len(amounts)
    for began, seconds, amount in intervals:
        first, ended = max(began, 0.0), max(began + seconds, 0.0)
        for number in range(len(amounts)):
            left, right = number * series.bin_s, (number + 1) * series.bin_s
            if ended > first:
                expected[number] += amount * max(0.0, min(ended, right) - max(first, left)) / (ended - first)
            elif left <= first < right:
                expected[number] += amount
    assert amounts == pytest.approx(expected, rel=1e-6, abs=1e-3)


@given(st.lists(INTERVALS, min_size=2, max_size=3), LIMITS)
def test_merged_amounts_are_those_of_all_intervals(parts, limit):
    merged, *others = [spread(part, limit) for part in parts]
    for other in others:
        merged.merge(other)
    whole = spread([interval for part in parts for interval in part], limit)
    assert merged.bin_s == whole.bin_s
    assert merged.amounts() == pytest.approx(whole.amounts(), rel=1e-6, abs=1e-3)


def test_series_of_one_run_are_brought_to_a_common_width():
    short, long = spread([(0, 2, 2.0)], limit=8), spread([(0, 30, 60.0)], limit=8)
    width = common_width([short, long])
    assert (short.bin_s, width) == (0.5, 4.0)
    assert short.at_width(width).amounts() == [2.0]
    assert long.at_width(width).amounts() == pytest.approx([8.0] * 7 + [4.0])
    assert short.amounts() == [0.5] * 4  # at_width returns a copy
    with pytest.raises(ValueError, match="do not make up"):
        short.at_width(0.75)


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_time_that_is_not_finite_is_refused(at):
    with pytest.raises(ValueError):
        SampleSeries(0.0, 1.0).add(at, 1.0)
    with pytest.raises(ValueError):
        AmountSeries(0.0, 1.0).spread(0.0, at, 1.0)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        SampleSeries(0.0, 1.0).add(0.0, math.nan)


@pytest.mark.parametrize("arguments", [(math.nan, 1.0), (0.0, 0.0), (0.0, math.inf), (0.0, 1.0, 0)])
def test_a_series_without_width_or_room_is_refused(arguments):
    with pytest.raises(ValueError, match="a series needs"):
        AmountSeries(*arguments)
