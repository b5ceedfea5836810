"""Which trial comes next. Pure: a function of what is wanted and of the results so far, so that a sweep can be resumed.

A *round* runs each point that is still in the search once, in an order that is shuffled anew: repeats of a point lie
apart, and what changes slowly on a machine (heat, other users) meets all points alike. Rounds of warm-ups come first.

* A point of which a trial did not go through is not run again: what runs out of memory or hangs would do so each time.
* A marked trial is run again at the end of its round, once. Where the disturbance lasts, this would double the sweep
  for nothing: after three marked trials in a row, only their marks tell.
* Halving: in each rung the better half of the points stays, and the budget doubles. The last points, and today's
  configuration, get all repeats. docs/adr/0011 has the reasons.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Generator, Iterator, Sequence

from gpuexec.bench.model import TODAY, Goal, SearchKind, Trial, TrialResult, TrialStatus
from gpuexec.errors import InternalError
from gpuexec.records import Record

_FINALISTS = 3
_LASTING = 3  # marked trials in a row

Trials = Generator[Trial, TrialResult, None]
Round = Generator[Trial, TrialResult, dict[str, TrialResult]]


class SearchPlan(Record):
    """What is wanted. ``points``: their ids, today's configuration first. ``budget_s``: of the first rung."""

    points: tuple[str, ...]
    goal: Goal
    search: SearchKind
    repeat: int
    warmup: int
    seed: int
    budget_s: float


def next_trial(plan: SearchPlan, results: Sequence[TrialResult]) -> Trial | None:
    """Return the trial that follows these results, in the order in which they came; ``None`` if there is none left.

    Interrupted trials are run again.
    """
    return next(_after(plan, results), None)


def trials_left(plan: SearchPlan, results: Sequence[TrialResult]) -> list[Trial]:
    """Return the trials that are left if all of them go through and none is marked."""
    return list(_after(plan, results))


def _after(plan: SearchPlan, results: Sequence[TrialResult]) -> Iterator[Trial]:
    trials = _Rounds(plan).halving() if plan.search is SearchKind.HALVING else _Rounds(plan).grid()
    trial = next(trials, None)
    for result in results:
        if result.status is TrialStatus.INTERRUPTED or trial is None:
            continue
        if result.trial != trial:
            raise InternalError(f"the sweep's trial {trial} was run as {result.trial}")
        trial = _send(trials, result)
    while trial is not None:
        yield trial
        trial = _send(trials, _went_through(trial))


def _send(trials: Trials, result: TrialResult) -> Trial | None:
    try:
        return trials.send(result)
    except StopIteration:
        return None


class _Rounds:
    """Generators of trials, which are sent the result of each."""

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        self._numbers = itertools.count()
        self._rounds = itertools.count()
        self._lasting = 0  # trials in a row that were marked

    def grid(self) -> Trials:
        points = list(self._plan.points)
        for repeat in [0] * self._plan.warmup + list(range(1, self._plan.repeat + 1)):
            points = _alive((yield from self._round(points, repeat)))

    def halving(self) -> Trials:
        points, budget_s = list(self._plan.points), self._plan.budget_s
        for _ in range(self._plan.warmup):
            points = _alive((yield from self._round(points, 0, 0, budget_s)))
        rung = 0
        while sum(point != TODAY for point in points) > _FINALISTS:
            points = self._better_half((yield from self._round(points, 1, rung, budget_s)))
            rung, budget_s = rung + 1, 2 * budget_s
        for repeat in range(1, self._plan.repeat + 1):
            points = _alive((yield from self._round(points, repeat, rung, budget_s)))

    def _round(self, points: Sequence[str], repeat: int, rung: int = 0, budget_s: float | None = None) -> Round:
        """Run each point once, then those again whose trials were marked. Return the last result of each."""
        order = sorted(points)
        random.Random(f"{self._plan.seed} {next(self._rounds)}").shuffle(order)  # noqa: S311 - no secret
        results: dict[str, TrialResult] = {}
        again = []
        for point in order:
            results[point] = yield Trial(next(self._numbers), point, repeat, rung, budget_s)
            if self._is_run_again(results[point]):
                again.append(point)
        for point in again:
            results[point] = yield Trial(next(self._numbers), point, repeat, rung, budget_s, again=True)
            self._note_marks(results[point])
        return {point: results[point] for point in points}

    def _is_run_again(self, result: TrialResult) -> bool:
        lasts = self._lasting >= _LASTING
        self._note_marks(result)
        matters = result.trial.counts or result.status is not TrialStatus.OK
        return bool(result.marks) and matters and not lasts

    def _note_marks(self, result: TrialResult) -> None:
        self._lasting = self._lasting + 1 if result.marks else 0

    def _better_half(self, results: dict[str, TrialResult]) -> list[str]:
        """Return the better half of the points that went through, and today's configuration if it did."""
        alive = _alive(results)
        others = [point for point in alive if point != TODAY]
        best = sorted(others, key=lambda point: _place(results[point], self._plan.goal))
        kept = {TODAY, *best[: (len(others) + 1) // 2]}
        return [point for point in alive if point in kept]


def _alive(results: dict[str, TrialResult]) -> list[str]:
    return [point for point, result in results.items() if result.status is TrialStatus.OK]


def _place(result: TrialResult, goal: Goal) -> tuple[bool, float]:
    """Return a key that sorts the best result first, those without the goal's figure last."""
    figure = {
        Goal.THROUGHPUT: None if result.throughput is None else -result.throughput,
        Goal.JOULES: result.joules_per_item,
        Goal.LATENCY: result.latency_p99_s,
    }[goal]
    return figure is None, figure or 0.0


def _went_through(trial: Trial) -> TrialResult:
    return TrialResult(
        trial=trial,
        status=TrialStatus.OK,
        reason=None,
        marks=(),
        seconds=None,
        items=None,
        throughput=None,
        first_result_s=None,
        latency_p50_s=None,
        latency_p99_s=None,
        joules=None,
        joules_per_item=None,
        energy_is_short=False,
        stages=(),
        run_folder=None,
        started_at=0.0,
    )
