"""What a sweep shows: spreads, ranking, equally good points, the front."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.bench.analysis import analyse
from gpuexec.bench.model import TODAY, Goal, SearchKind, Sweep, Trial, TrialStatus
from gpuexec.bench.spread import Steadiness, spread_of
from gpuexec.bench.summary import AIMS, NO_ENERGY, NOT_MEASURED, TOO_SHORT, PointSummary
from gpuexec.report.figures import HIGHER
from tests.unit.bench.sweeps import embedding_on_gpus, halving, measured, result, sweep_of, sweeps

close = pytest.approx
speeds = st.floats(0.1, 1e6)


def of(sweep: Sweep, point_id: str) -> PointSummary:
    return next(point for point in analyse(sweep).points if point.point.id == point_id)


def trial(repeat: int, rung: int = 0, number: int = 0, point_id: str = TODAY) -> Trial:
    return Trial(number, point_id, repeat, rung, None)


# ---- spreads -------------------------------------------------------------------------------------------


@given(st.lists(speeds, min_size=2, max_size=10))
def test_a_spread_is_that_of_the_textbook(values: list[float]):
    found = spread_of(values)
    assert found.mean == close(statistics.fmean(values))
    assert found.sd == close(statistics.stdev(values), rel=1e-6, abs=1e-9 * max(values))
    assert found.cv == close(found.sd / found.mean)
    assert found.low <= found.mean <= found.high
    assert found.n == len(values)


@given(speeds)
def test_one_repeat_shows_no_spread(value: float):
    found = spread_of([value])
    assert found.mean == value
    assert (found.sd, found.low, found.high, found.cv, found.word, found.interval) == (None,) * 6


def test_no_repeat_has_no_spread():
    assert spread_of([]) is None


@pytest.mark.parametrize(
    ("cv", "word"),
    [
        (0.0, Steadiness.STEADY),
        (0.049, Steadiness.STEADY),
        (0.051, Steadiness.VARIABLE),
        (0.199, Steadiness.VARIABLE),
        (0.201, Steadiness.UNSTABLE),
    ],
)
def test_words_of_a_coefficient_of_variation(cv: float, word: Steadiness):
    around = cv / math.sqrt(2)  # of two values, the deviation is their distance by the root of 2
    assert spread_of([100 * (1 - around), 100 * (1 + around)]).word is word


def test_a_mean_of_nothing_has_no_coefficient_of_variation():
    assert spread_of([0.0, 0.0]).word is None


# ---- which results count -------------------------------------------------------------------------------


def test_warm_ups_do_not_count():
    found = of(sweep_of([result(trial(0), 1.0), result(trial(1), 10.0), result(trial(2), 12.0)]), TODAY)
    assert (found.n, found.throughput.mean, len(found.results)) == (2, 11.0, 3)


def test_a_repeat_that_was_run_again_counts_once():
    first = result(trial(1), 5.0, marks=("throttled: GPU 0",))
    again = result(replace(trial(1), number=1, again=True), 10.0)
    found = of(sweep_of([first, again]), TODAY)
    assert (found.n, found.throughput.mean, found.marks) == (1, 10.0, ())


def test_a_mark_that_stays_is_told():
    marks = ("throttled: GPU 0 for 20 %",)
    assert of(sweep_of([result(trial(1), 5.0, marks=marks)]), TODAY).marks == marks


def test_only_the_last_rung_counts():
    results = [result(trial(1, rung=0), 50.0), result(trial(1, rung=1), 10.0), result(trial(2, rung=1), 11.0)]
    found = of(sweep_of(results, search=SearchKind.HALVING), TODAY)
    assert (found.rung, found.n, found.throughput.mean) == (1, 2, 10.5)


def test_a_point_with_a_failed_repeat_is_not_usable():
    failed = result(trial(2), None, TrialStatus.OUT_OF_MEMORY, reason="9 GiB")
    found = of(sweep_of([result(trial(1), 10.0), failed]), TODAY)
    assert (found.status, found.reason) == (TrialStatus.OUT_OF_MEMORY, "1 of 2 repeats: 9 GiB")
    assert found.has_failed
    assert found.throughput.mean == 10.0  # it is shown all the same


def test_a_failed_warm_up_tells_where_nothing_else_was_run():
    assert of(sweep_of([result(trial(0), None, TrialStatus.CRASHED, reason="SIGSEGV")]), TODAY).reason == "SIGSEGV"
    cold = [result(trial(0), None, TrialStatus.TIMED_OUT), result(trial(1), 3.0)]
    assert of(sweep_of(cold), TODAY).is_usable


def test_an_interruption_says_nothing_about_a_point():
    interrupted = result(trial(1), None, TrialStatus.INTERRUPTED)
    assert of(sweep_of([interrupted]), TODAY).status is TrialStatus.INTERRUPTED
    assert not of(sweep_of([interrupted]), TODAY).has_failed
    assert of(sweep_of([interrupted, result(trial(1, number=1), 3.0)]), TODAY).is_usable
    refused = result(trial(0), None, TrialStatus.REFUSED)
    assert of(sweep_of([refused, interrupted]), TODAY).status is TrialStatus.REFUSED


def test_what_was_not_run_is_not_measured():
    found = of(sweep_of([]), "p01")
    assert (found.status, found.reason, found.n, found.throughput) == (None, NOT_MEASURED, 0, None)


def test_energy_of_less_than_ten_seconds_is_no_figure():
    short = {"joules": 30.0, "joules_per_item": 0.3, "energy_is_short": True}
    found = of(sweep_of([result(trial(1), 10.0, **short)]), TODAY)
    assert (found.joules_per_item, found.joules_reason, found.energy_is_short) == (None, TOO_SHORT, True)
    assert of(sweep_of([result(trial(1), 10.0)]), TODAY).joules_reason == NO_ENERGY
    long = result(trial(2), 10.0, joules=400.0, joules_per_item=0.4)
    found = of(sweep_of([result(trial(1), 10.0, **short), long]), TODAY)
    assert (found.joules_per_item.mean, found.joules_reason) == (0.4, None)


# ---- ranking -------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(sweeps())
def test_any_sweep_is_ranked(sweep: Sweep):
    found, aim = analyse(sweep), AIMS[sweep.goal]
    by_point = sorted(sweep.results, key=lambda each: each.trial.point_id)  # the order of other points does not matter
    assert analyse(replace(sweep, results=tuple(by_point))) == found
    assert sorted(point.point.id for point in found.points) == sorted(point.id for point in sweep.points)
    for point in found.points:
        assert not point.equally_good or (point.is_usable and not point.is_best)
        assert not point.on_front or (point.is_usable and point.joules_per_item is not None)
    energy = [p for p in found.points if p.is_usable and p.throughput is not None and p.joules_per_item is not None]
    assert found.has_energy == bool(energy)
    usable = [point for point in found.points if point.is_usable and point.spread(aim.figure) is not None]
    assert (found.best is None) == (found.answer is None) == (not usable)
    if found.best is not None:
        assert [point for point in found.points if point.is_best] == [found.best]
        assert found.best.rung == max(point.rung for point in usable)
        means = [point.spread(aim.figure).mean for point in usable if point.rung == found.best.rung]
        assert found.best.spread(aim.figure).mean == (max(means) if aim.better == HIGHER else min(means))


@given(st.lists(st.lists(speeds, min_size=2, max_size=4), min_size=1, max_size=3))
def test_equally_good_means_that_intervals_overlap(values: list[list[float]]):
    sweep = sweep_of(measured({f"p{n:02}": found for n, found in enumerate(values)}))
    points = analyse(sweep).points[: len(values)]
    best = points[0].throughput
    for point in points[1:]:
        assert point.equally_good == (point.throughput.high >= best.low)


def test_one_repeat_of_the_best_shows_nothing_about_others():
    points = analyse(sweep_of(measured({"p00": [10.0], "p01": [10.0, 9.0, 11.0]}))).points
    assert points[0].point.id == "p00"
    assert not any(point.equally_good for point in points)


def test_one_repeat_within_the_best_ones_interval_is_equally_good():
    found = of(sweep_of(measured({"p00": [9.9], "p01": [9.0, 10.0, 12.0], "p02": [1.0]})), "p00")
    assert found.equally_good


def test_points_of_earlier_rungs_come_after_later_ones():
    found = analyse(halving())
    assert [point.rung for point in found.points] == sorted((p.rung for p in found.points), reverse=True)
    assert found.points[0].point.settings == {"embed.batch_size": 32}
    assert not any(point.equally_good for point in found.points if point.rung < 2)


def test_failed_points_come_last_but_for_those_not_measured():
    results = [result(trial(1, point_id="p01"), None, TrialStatus.CRASHED), result(trial(1, point_id="p02"), 1.0)]
    assert [point.point.id for point in analyse(sweep_of(results)).points] == ["p02", "p01", TODAY, "p03"]


@pytest.mark.parametrize(("goal", "best"), [(Goal.THROUGHPUT, "p01"), (Goal.JOULES, "p02"), (Goal.LATENCY, "p03")])
def test_the_goal_decides_which_is_best(goal: Goal, best: str):
    figures = {"p00": (5.0, 5.0, 5.0), "p01": (9.0, 5.0, 5.0), "p02": (5.0, 1.0, 5.0), "p03": (5.0, 5.0, 1.0)}
    results = [
        result(trial(1, point_id=name), speed, joules=9.0, joules_per_item=joules, latency_p99_s=latency)
        for name, (speed, joules, latency) in figures.items()
    ]
    assert analyse(sweep_of(results, goal=goal)).best.point.id == best


def test_without_the_goals_figure_nothing_is_best():
    found = analyse(sweep_of(measured({TODAY: [1.0, 2.0]}), goal=Goal.JOULES))
    assert (found.best, found.answer) == (None, None)
    assert found.points[0].is_usable


# ---- the front -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
def test_the_front_has_the_points_that_no_other_one_dominates(figures: list[tuple[int, int]]):
    results = [
        result(trial(1, point_id=f"p{n:02}"), float(speed), joules=9.0, joules_per_item=float(joules))
        for n, (speed, joules) in enumerate(figures)
    ]
    front = {point.point.id for point in analyse(sweep_of(results)).points if point.on_front}
    for n, (speed, joules) in enumerate(figures):
        dominated = any(s >= speed and j <= joules and (s, j) != (speed, joules) for s, j in figures)
        assert (f"p{n:02}" in front) == (not dominated)


def test_a_front_of_a_plausible_sweep():
    found = analyse(embedding_on_gpus())
    front = [point.point.id for point in found.points if point.on_front]
    assert found.best.point.id == front[0]
    assert len(front) >= 2
