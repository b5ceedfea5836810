"""The answer says what to use, what it gains, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.bench.analysis import analyse
from gpuexec.bench.answer import Answer, Finding
from gpuexec.bench.model import TODAY, Goal, Point, Sweep, Trial, TrialStatus
from gpuexec.report.statistics import difference_interval, mean
from tests.unit.bench.sweeps import (
    SAMPLES,
    embedding_on_gpus,
    halving,
    hostile_names,
    measured,
    one_point,
    result,
    sweep_of,
    sweeps,
)

close = pytest.approx
TODAYS = [99.0, 100.0, 101.0]


def answered(speeds: dict[str, list[float]], **others) -> Answer:
    found = analyse(sweep_of(measured(speeds), **others)).answer
    assert found is not None
    return found


def latencies(points: dict[str, list[float]]) -> Sweep:
    results = [
        result(Trial(number, name, repeat, 0, None), 10.0, latency_p99_s=value)
        for name, values in points.items()
        for number, (repeat, value) in enumerate(enumerate(values, 1))
    ]
    return sweep_of(results, goal=Goal.LATENCY)


def test_a_gain_is_shown_with_its_interval():
    found = answered({TODAY: TODAYS, "p01": [149.0, 150.0, 151.0]})
    assert (found.finding, found.point_id) == (Finding.SHOWN, "p01")
    assert found.gain.estimate == close(0.5)
    assert 0.4 < found.gain.low < 0.5 < found.gain.high < 0.6
    assert found.sentences[0] == (
        "Use p01 (batch_size 1): throughput 150 items/s, today 100 items/s (+50 %; 95 %: +47.7 … +52.3)."
    ).replace("+47.7 … +52.3", "+48 … +52")


def test_large_gains_are_told_as_times():
    assert "(× 3.5; 95 %: × 3.48 … 3.52)" in answered({TODAY: TODAYS, "p01": [349.0, 350.0, 351.0]}).sentences[0]


def test_within_noise_no_gain_is_claimed():
    found = answered({TODAY: TODAYS, "p01": [90.0, 104.0, 112.0]})
    assert found.finding is Finding.NOISE
    assert found.gain.low < 0 < found.gain.high
    assert found.sentences[0].startswith("No gain over today's configuration is shown. The best is p01")
    assert "p00 is equally good" in found.words


@pytest.mark.parametrize("values", [([100.0], [150.0]), ([100.0], [149.0, 151.0]), ([99.0, 101.0], [150.0])])
def test_one_repeat_gives_no_interval_and_says_so(values: tuple[list[float], list[float]]):
    found = answered({TODAY: values[0], "p01": values[1]})
    assert (found.finding, found.gain) == (Finding.ONE_REPEAT, None)
    assert "(+50 %)" in found.words
    assert "may be chance" in found.words


def test_todays_configuration_may_be_the_best():
    found = answered({TODAY: TODAYS, "p01": [50.0, 51.0, 52.0]})
    assert (found.finding, found.point_id, found.snippet, found.gain) == (Finding.TODAY, TODAY, "", None)
    assert found.sentences[0] == "Keep today's configuration: it is the best of 2 points, with 100 items/s."
    assert "the only one that went through" in analyse(one_point()).answer.words


def test_a_point_with_todays_settings_is_todays_configuration():
    points = (Point(TODAY, {}), Point("p01", {"embed.batch_size": 8}))
    found = answered({TODAY: [100.0], "p01": [101.0]}, points=points, today={"embed.batch_size": 8})
    assert (found.finding, found.snippet) == (Finding.TODAY, "")


def test_what_cannot_be_compared_says_why():
    failed = result(Trial(0, TODAY, 1, 0, None), None, TrialStatus.OUT_OF_MEMORY, reason="needs 90 GiB")
    found = analyse(sweep_of([failed, *measured({"p01": [5.0, 6.0]})])).answer
    assert (found.finding, found.gain) == (Finding.NO_COMPARISON, None)
    assert "today's configuration, which has no result: out of GPU memory (needs 90 GiB)." in found.words
    assert "today's configuration, which was not measured." in answered({"p01": [5.0, 6.0]}).words


def test_todays_energy_may_be_too_short_to_compare():
    results = [
        result(Trial(0, TODAY, 1, 0, None), 9.0, joules=1.0, joules_per_item=1.0, energy_is_short=True),
        result(Trial(1, "p01", 1, 0, None), 9.0, joules=1.0, joules_per_item=1.0),
    ]
    found = analyse(sweep_of(results, goal=Goal.JOULES)).answer
    assert "whose energy per item is not known: measured for less than 10 s." in found.words


def test_a_gain_of_a_figure_that_should_be_low_is_positive():
    found = analyse(latencies({TODAY: [2.0, 2.01, 1.99], "p01": [1.0, 1.01, 0.99]})).answer
    assert found.finding is Finding.SHOWN
    assert found.gain.estimate == close(0.5)
    assert found.gain.low < 0.5 < found.gain.high
    assert "time of a task, p99 1 s, today 2 s (−50 %" in found.words


@settings(max_examples=40)
@given(st.lists(st.lists(st.floats(1, 1e4), min_size=2, max_size=4), min_size=2, max_size=2))
def test_the_gain_is_that_of_the_difference(values: list[list[float]]):
    before, after = sorted(values, key=mean)
    found = answered({TODAY: before, "p01": after})
    if found.finding is Finding.TODAY:
        assert mean(before) == mean(after)
        return
    interval = difference_interval(before, after)
    assert found.gain.to_tuple() == close([end / mean(before) for end in interval.to_tuple()])
    assert (found.finding is Finding.SHOWN) == (interval.low > 0)


@settings(max_examples=40)
@given(sweeps())
def test_any_answer_is_in_words_and_honest(sweep: Sweep):
    found = analyse(sweep).answer
    if found is None:
        return
    assert all(sentence.endswith(".") for sentence in found.sentences)
    if found.finding is Finding.SHOWN:
        assert found.gain.low > 0
    if found.finding in (Finding.ONE_REPEAT, Finding.NO_COMPARISON, Finding.TODAY):
        assert found.gain is None
    if not sweep.complete:
        assert "The sweep is not complete" in found.words


def test_the_other_end_of_the_front_is_named():
    words = analyse(embedding_on_gpus()).answer.words
    assert "p08 uses the least energy: 2.19 J per item instead of 2.87 J per item, at 69 % of the throughput" in words
    turned = analyse(replace(embedding_on_gpus(), goal=Goal.JOULES)).answer
    assert turned.point_id == "p08"
    assert "p13 has the highest throughput" in turned.words


def test_doubts_and_failures_are_told():
    marked = result(Trial(9, "p01", 4, 0, None), 20.0, marks=("throttled: GPU 0 for 20 %",))
    failed = result(Trial(8, "p02", 1, 0, None), None, TrialStatus.CRASHED)
    found = analyse(sweep_of([*measured({TODAY: [1.0, 1.0], "p01": [5.0, 9.0]}), marked, failed])).answer
    assert "The figures of p01 are doubtful: throttled: GPU 0 for 20 %." in found.words
    assert "p01 is unstable: its throughput varies by" in found.words
    assert "1 point failed: p02." in found.words


def test_long_lists_of_points_are_cut():
    close_together = {f"p{n:02}": [100.0 + n, 90.0, 110.0] for n in range(7)}
    varied = {"embed.batch_size": tuple(range(10))}
    assert "and 2 more are equally good" in answered(close_together, varied=varied).words


def test_a_comparison_of_an_early_rung_says_so():
    words = analyse(halving()).answer.words
    assert "The comparison with today's configuration is of rung 1 of 3" in words
    assert "shorter" in words


def test_hostile_texts_stay_on_one_line():
    assert "\n" not in analyse(hostile_names()).answer.words


# ---- the snippet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_snippet_is_python(make):
    found = analyse(make()).answer
    if found is not None:
        compile(found.snippet, "snippet", "exec")
