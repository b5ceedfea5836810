"""Energy: what is measured adds up, what is attributed adds up to what was measured, and what is unknown says why."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report.energy import EnergyKind, EnergyMeter, IdlePower, attribute, idle_power


def metered(readings) -> EnergyMeter:
    meter = EnergyMeter()
    for at, millijoules in readings:
        meter.add(at, millijoules, None if millijoules is not None else "not supported")
    return meter


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 10**8), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 2**50),
)
def test_joules_are_the_difference_of_the_counter_however_many_readings_are_missing(steps, start):
    meter = EnergyMeter()
    at, counter = 5.0, start
    meter.add(at, counter)
    for seconds, millijoules, is_missing in steps:
        at, counter = at + seconds, counter + millijoules
        meter.add(at, None if is_missing else counter, "not supported" if is_missing else None)
    meter.add(at + 1, counter)
    result = meter.result()
    assert result.joules == pytest.approx((counter - start) / 1000)
    assert result.seconds == pytest.approx(at + 1 - 5.0)
    assert result.reason is None


@pytest.mark.parametrize(("seconds", "kind"), [(9.9, EnergyKind.SHORT), (10.0, EnergyKind.MEASURED)])
def test_less_than_ten_seconds_are_short(seconds, kind):
    result = metered([(0.0, 0), (seconds, 700_000)]).result()
    assert (result.joules, result.kind) == (700.0, kind)


def test_a_counter_of_32_bits_goes_round():
    result = metered([(0.0, 2**32 - 300_000), (1.0, 400_000), (2.0, 1_100_000)]).result()
    assert (result.joules, result.seconds, result.reason) == (1400.0, 2.0, None)


@pytest.mark.parametrize("before", [5_000_000, 2**40])
def test_what_is_used_while_the_counter_is_set_back_is_not_guessed(before):
    result = metered([(0.0, before), (10.0, before + 7_000_000), (11.0, 100), (13.0, 1_400_100)]).result()
    assert (result.joules, result.seconds) == (8400.0, 12.0)
    assert result.reason == "the counter was set back once; what was used just then is not included"


@pytest.mark.parametrize(
    ("readings", "reason"),
    [
        ([], "its counter was read less than twice"),
        ([(0.0, 5)], "its counter was read less than twice"),
        ([(0.0, 5), (0.0, 6)], "its counter was read less than twice"),
        ([(0.0, None), (1.0, None)], "not supported"),
        ([(0.0, 2**40), (1.0, 3)], "the counter was set back"),
    ],
)
def test_unknown_joules_have_a_reason(readings, reason):
    result = metered(readings).result()
    assert (result.joules, result.kind, result.reason) == (None, None, reason)


def test_a_reading_says_since_when_it_counts():
    meter = EnergyMeter()
    assert meter.add(1.0, 1000) is None
    assert meter.add(2.0, None, "lost") is None
    assert meter.add(3.0, 4000) == (1.0, 3.0)


def test_idle_power_is_that_of_the_time_without_work():
    joules, seconds = [70.0, 300.0, 700.0, 300.0, 70.0, 35.0], [1.0] * 5 + [0.5]
    found = idle_power(joules, seconds, [0.0, 0.0, 1.0])
    assert (found.watts, found.seconds) == (70.0, 2.5)  # without the bins beside the work


@pytest.mark.parametrize("busy_s", [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0, 0.0, 0.1]])
def test_idle_power_is_unknown_where_there_was_hardly_any_time_without_work(busy_s):
    found = idle_power([700.0, 40.0, 70.0], [0.3, 0.3, 0.3], busy_s)
    assert found.watts is None
    assert found.reason == "there was less than a second, and some margin, without work on this device"


BINS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100)), max_size=20)
BUSY = st.lists(st.lists(st.floats(0.001, 100) | st.just(0.0), max_size=20), max_size=4)
IDLE = st.one_of(
    st.builds(IdlePower, st.floats(0, 1000), st.just(5.0)),
    st.builds(IdlePower, st.none(), st.just(0.0), st.just("always at work")),
)


@given(BINS, BUSY, IDLE)
def test_shares_and_idle_joules_add_up_to_what_was_measured(bins, busy_s, idle):
    joules, seconds = [j for j, _ in bins], [s for _, s in bins]
    all_busy_s = [math.fsum(column) for column in itertools.zip_longest(*busy_s, fillvalue=0.0)]
    found = attribute(joules, seconds, all_busy_s, idle)
    shares = [found.share(each) for each in busy_s]
    assert found.joules == pytest.approx(math.fsum(joules))
    assert found.idle_joules + sum(shares) == pytest.approx(found.joules, rel=1e-9, abs=1e-6)
    assert min([found.idle_joules, *shares]) >= 0
    assert (found.reason is None) == (idle.watts is not None)


def test_shares_follow_busy_time_and_idle_power_is_set_apart():
    embed, caption = [1.0, 0.0, 0.5], [0.0, 0.0, 1.5]
    found = attribute([570.0, 70.0, 470.0], [1.0, 1.0, 1.0], [1.0, 0.0, 2.0], IdlePower(70.0, 1.0))
    assert (found.joules, found.idle_joules, found.reason) == (1110.0, 210.0, None)
    assert (found.share(embed), found.share(caption)) == (500.0 + 100.0, 300.0)


def test_without_idle_power_the_shares_include_it_and_say_so():
    found = attribute([700.0, 80.0], [1.0, 1.0], [1.0], IdlePower(None, 0.5, "only 0.5 s was without work"))
    assert (found.share([1.0]), found.idle_joules) == (700.0, 80.0)
    assert found.reason == "the shares include idle power, which is unknown: only 0.5 s was without work"
