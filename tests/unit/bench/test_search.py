"""Which trial comes next: every point gets its repeats, the best is kept, and a sweep goes on from anywhere."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.bench.model import TODAY, Goal, SearchKind, Trial, TrialResult, TrialStatus
from gpuexec.bench.search import SearchPlan, next_trial, trials_left
from gpuexec.errors import InternalError
from tests.unit.bench.sweeps import result

Outcome = Callable[[Trial], TrialResult]


@st.composite
def plans(draw, search=None) -> SearchPlan:
    return SearchPlan(
        points=tuple(f"p{n:02}" for n in range(draw(st.integers(1, 12)))),
        goal=draw(st.sampled_from(Goal)),
        search=search or draw(st.sampled_from(SearchKind)),
        repeat=draw(st.integers(1, 4)),
        warmup=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 10**6)),
        budget_s=draw(st.sampled_from([0.5, 12.0])),
    )


def fine(trial: Trial) -> TrialResult:
    return result(trial, 1.0 + int(trial.point_id[1:]), joules_per_item=1.0, latency_p99_s=1.0)


def drawn(salt: int) -> Outcome:
    """Return outcomes that look like chance, and are the same each time."""

    def outcome(trial: Trial) -> TrialResult:
        number = zlib.crc32(repr((salt, trial)).encode())
        status = (TrialStatus.OUT_OF_MEMORY, TrialStatus.TIMED_OUT)[number % 2] if number % 7 == 0 else TrialStatus.OK
        marks = ("throttled: drawn",) if number // 8 % 5 == 0 else ()
        return result(trial, number / 1e6, status, marks=marks)

    return outcome


def run(plan: SearchPlan, outcome: Outcome) -> list[TrialResult]:
    results: list[TrialResult] = []
    while (trial := next_trial(plan, results)) is not None:
        results.append(outcome(trial))
        assert len(results) < 2000
    return results


@given(plans(SearchKind.GRID))
def test_in_a_grid_every_point_gets_its_repeats_and_they_lie_apart(plan: SearchPlan):
    results = run(plan, fine)
    size = len(plan.points)
    assert len(results) == size * (plan.warmup + plan.repeat)
    for number, begin in enumerate(range(0, len(results), size)):
        trials = [each.trial for each in results[begin : begin + size]]
        assert sorted(trial.point_id for trial in trials) == list(plan.points)
        assert {trial.repeat for trial in trials} == {max(0, number - plan.warmup + 1)}
        assert {(trial.rung, trial.budget_s, trial.again) for trial in trials} == {(0, None, False)}


@given(plans(), st.integers())
def test_whatever_happens_every_point_is_accounted_for(plan: SearchPlan, salt: int):
    results = run(plan, drawn(salt))
    assert [each.trial.number for each in results] == list(range(len(results)))
    assert {each.trial.point_id for each in results} == set(plan.points)
    for point in plan.points:
        own = [each for each in results if each.trial.point_id == point]
        for each, after in zip(own, [*own[1:], None], strict=True):
            if each.status is not TrialStatus.OK:
                assert after is None or after.trial.again, (
                    "a point that has failed is not run again, unless it was marked"
                )
        kinds = Counter((each.trial.repeat, each.trial.rung) for each in own if each.trial.counts)
        assert all(count <= 2 for count in kinds.values()), "a repeat is run again once"
        for each in own:
            if each.trial.again:
                before = [o for o in own if o.trial.number < each.trial.number][-1]
                assert before.marks
                assert (before.trial.repeat, before.trial.rung) == (each.trial.repeat, each.trial.rung)


@given(plans(SearchKind.GRID), st.integers())
def test_a_point_that_never_fails_gets_all_its_repeats(plan: SearchPlan, salt: int):
    results = run(plan, drawn(salt))
    for point in plan.points:
        own = [each for each in results if each.trial.point_id == point]
        last = {each.trial.repeat: each for each in own}
        if all(each.status is TrialStatus.OK for each in last.values()):
            assert set(range(1, plan.repeat + 1)) <= set(last)


@given(plans(), st.integers(), st.data())
def test_a_sweep_goes_on_from_any_prefix(plan: SearchPlan, salt: int, data):
    outcome = drawn(salt)
    results = run(plan, outcome)
    kept = results[: data.draw(st.integers(0, len(results)))]
    for at in data.draw(st.lists(st.integers(0, len(kept)), max_size=3)):
        trial = results[min(at, len(results) - 1)].trial
        kept.insert(at, result(trial, None, TrialStatus.INTERRUPTED))
    rest = []
    while (trial := next_trial(plan, [*kept, *rest])) is not None:
        rest.append(outcome(trial))
    assert [each for each in [*kept, *rest] if each.status is not TrialStatus.INTERRUPTED] == results


@given(plans(), st.integers())
def test_what_is_left_is_what_comes_if_all_goes_well(plan: SearchPlan, salt: int):
    results = run(plan, drawn(salt))[:3]
    left = trials_left(plan, results)
    assert next_trial(plan, results) == (left[0] if left else None)
    assert [trial.number for trial in left] == list(range(len(results), len(results) + len(left)))


@given(plans(SearchKind.HALVING), st.permutations(range(12)))
def test_halving_keeps_the_best_under_any_order(plan: SearchPlan, order: list[int]):
    """The best of what can be compared: today's configuration is kept in any case."""

    def outcome(trial: Trial) -> TrialResult:
        score = 1.0 + order[int(trial.point_id[1:])]
        return result(trial, score, joules_per_item=1 / score, latency_p99_s=1 / score)

    results = run(plan, outcome)
    last_rung = max(each.trial.rung for each in results)
    finals = Counter(each.trial.point_id for each in results if each.trial.rung == last_rung and each.trial.counts)
    best = max(plan.points, key=lambda point: order[int(point[1:])])
    assert finals[best] == finals[TODAY] == plan.repeat
    assert set(finals.values()) == {plan.repeat}
    assert len(finals) <= 4
    for rung in range(last_rung + 1):
        own = [each.trial for each in results if each.trial.rung == rung and each.trial.counts]
        assert {trial.budget_s for trial in own} == {plan.budget_s * 2**rung}
        if rung < last_rung:
            assert Counter(trial.point_id for trial in own).most_common(1)[0][1] == 1


def test_halving_gives_short_runs_to_many_points_and_long_ones_to_few():
    plan = SearchPlan(tuple(f"p{n:02}" for n in range(25)), Goal.THROUGHPUT, SearchKind.HALVING, 5, 1, 7, 12.0)
    trials = [each.trial for each in run(plan, fine)]
    by_rung = Counter((trial.rung, trial.budget_s) for trial in trials if trial.counts)
    assert by_rung == {(0, 12.0): 25, (1, 24.0): 13, (2, 48.0): 7, (3, 96.0): 4 * 5}
    assert sum(not trial.counts for trial in trials) == 25


def test_a_point_without_the_goals_figure_comes_after_those_with_it():
    plan = SearchPlan(tuple(f"p{n:02}" for n in range(6)), Goal.JOULES, SearchKind.HALVING, 1, 0, 7, 12.0)
    known = {"p01", "p04", "p05"}
    results = run(plan, lambda trial: result(trial, 1.0, joules_per_item=2.0 if trial.point_id in known else None))
    assert {each.trial.point_id for each in results if each.trial.rung == 1} == {TODAY, *known}


@given(plans())
def test_a_disturbance_that_lasts_does_not_double_the_sweep(plan: SearchPlan):
    results = run(plan, lambda trial: result(trial, 1.0, marks=("another tenant: for ever",)))
    assert sum(each.trial.again for each in results) <= 3


def test_a_marked_repeat_is_run_again_at_the_end_of_its_round():
    plan = SearchPlan(("p00", "p01", "p02"), Goal.THROUGHPUT, SearchKind.GRID, 2, 0, 7, 12.0)
    results = run(plan, lambda trial: result(trial, 1.0, marks=("throttled: once",) * (trial.number == 1)))
    again = results[3].trial
    assert again == Trial(3, results[1].trial.point_id, 1, 0, None, again=True)
    assert len(results) == 7


def test_a_failed_warm_up_is_run_again_only_if_it_was_marked():
    plan = SearchPlan(("p00",), Goal.THROUGHPUT, SearchKind.GRID, 1, 1, 7, 12.0)
    busy = {"marks": ("another tenant: pid 1",)}
    trials = [each.trial for each in run(plan, lambda trial: result(trial, None, TrialStatus.CRASHED, **busy))]
    assert [(trial.repeat, trial.again) for trial in trials] == [(0, False), (0, True)]
    trials = [each.trial for each in run(plan, lambda trial: result(trial, 1.0, **busy))]
    assert [(trial.repeat, trial.again) for trial in trials] == [(0, False), (1, False), (1, True)]


def test_the_seed_makes_the_order():
    def order(seed: int) -> list[str]:
        plan = SearchPlan(tuple(f"p{n:02}" for n in range(20)), Goal.THROUGHPUT, SearchKind.GRID, 2, 0, seed, 1.0)
        return [each.trial.point_id for each in run(plan, fine)]

    assert order(1) == order(1) != order(2)
    assert order(1)[:20] != order(1)[20:], "each round has an order of its own"


def test_results_of_another_sweep_are_refused():
    plan = SearchPlan(("p00", "p01"), Goal.THROUGHPUT, SearchKind.GRID, 1, 0, 7, 1.0)
    with pytest.raises(InternalError):
        next_trial(plan, [result(Trial(0, "p07", 1, 0, None), 1.0)])
