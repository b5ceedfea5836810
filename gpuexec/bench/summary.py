"""What the repeats of one point say together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.bench.model import Goal, Point, Sweep, TrialResult, TrialStatus
from gpuexec.bench.spread import Spread, spread_of
from gpuexec.records import Record
from gpuexec.report.figures import HIGHER, LOWER

NOT_MEASURED = "not measured yet"
TOO_SHORT = "measured for less than 10 s"
NO_ENERGY = "no energy was read"


class Aim(Record):
    """The figure that a goal is about: a field of `PointSummary` and `TrialResult`. ``better``: "higher" or "lower"."""

    figure: str
    better: str


AIMS = {
    Goal.THROUGHPUT: Aim("throughput", HIGHER),
    Goal.JOULES: Aim("joules_per_item", LOWER),
    Goal.LATENCY: Aim("latency_p99_s", LOWER),
}


class PointSummary(Record):
    """A point, and what its repeats say.

    Only repeats that count are in the figures (`Sweep.counted`), and only those of ``rung``, the last rung that the
    point reached: runs of different lengths are not of one kind. ``n``: how many went through. ``status``: how the
    first repeat ended that did not go through, else OK; ``None``: not measured yet. ``joules_reason``: why
    ``joules_per_item`` is not known. ``equally_good``: its interval overlaps the best's. ``on_front``: no other point
    has both more throughput and fewer joules per item. ``marks``: what makes its figures doubtful. ``results``: all its
    trials, warm-ups included.
    """

    point: Point
    status: TrialStatus | None
    reason: str | None
    n: int
    rung: int
    throughput: Spread | None
    joules_per_item: Spread | None
    joules_reason: str | None
    first_result_s: Spread | None
    latency_p99_s: Spread | None
    marks: tuple[str, ...]
    results: tuple[TrialResult, ...]
    is_best: bool = False
    equally_good: bool = False
    on_front: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether all its repeats went through."""
        return self.status is TrialStatus.OK

    @property
    def has_failed(self) -> bool:
        """Whether a repeat ended otherwise, and not because the sweep was interrupted."""
        return self.status not in (None, TrialStatus.OK, TrialStatus.INTERRUPTED)

    @property
    def energy_is_short(self) -> bool:
        """Whether its energy was read, but for too short a time to be a figure of it."""
        return self.joules_reason == TOO_SHORT

    def spread(self, figure: str) -> Spread | None:
        """Return the spread of a figure, by the name of its field."""
        found: Spread | None = getattr(self, figure)
        return found


def summarise(sweep: Sweep) -> list[PointSummary]:
    """Return a summary of each point, in the sweep's order."""
    counted: dict[str, list[TrialResult]] = {}
    for result in sweep.counted:
        counted.setdefault(result.trial.point_id, []).append(result)
    every: dict[str, list[TrialResult]] = {}
    for result in sweep.results:
        every.setdefault(result.trial.point_id, []).append(result)
    return [_summary(point, counted.get(point.id, ()), every.get(point.id, ())) for point in sweep.points]


def figures_of(results: Sequence[TrialResult], figure: str) -> list[float]:
    """Return the values of a figure that are known, of the results that went through."""
    done = [result for result in results if result.status is TrialStatus.OK]
    if figure == "joules_per_item":
        done = [result for result in done if not result.energy_is_short]
    return [value for result in done if (value := getattr(result, figure)) is not None]


def _summary(point: Point, counted: Sequence[TrialResult], every: Sequence[TrialResult]) -> PointSummary:
    rung = max((result.trial.rung for result in counted), default=0)
    results = [result for result in counted if result.trial.rung == rung]
    status, reason = _outcome(results, every)
    joules = spread_of(figures_of(results, "joules_per_item"))
    return PointSummary(
        point=point,
        status=status,
        reason=reason,
        n=sum(result.status is TrialStatus.OK for result in results),
        rung=rung,
        throughput=spread_of(figures_of(results, "throughput")),
        joules_per_item=joules,
        joules_reason=None if joules else _why_no_joules(results),
        first_result_s=spread_of(figures_of(results, "first_result_s")),
        latency_p99_s=spread_of(figures_of(results, "latency_p99_s")),
        marks=tuple(dict.fromkeys(mark for result in results for mark in result.marks)),
        results=tuple(every),
    )


def _outcome(results: Sequence[TrialResult], every: Sequence[TrialResult]) -> tuple[TrialStatus | None, str | None]:
    """Return how the point's trials ended. A warm-up tells only where no repeat was run."""
    failed = [result for result in results if result.status is not TrialStatus.OK]
    if failed:
        share = f"{len(failed)} of {len(results)} repeats: " if len(results) > 1 else ""
        return failed[0].status, share + (failed[0].reason or "no reason is known")
    if results:
        return TrialStatus.OK, None
    ended = [result for result in every if result.status is not TrialStatus.OK]
    if ended:
        # An interruption says nothing about the point, so another end comes first.
        last = max(ended, key=lambda result: (result.status is not TrialStatus.INTERRUPTED, result.trial.number))
        return last.status, last.reason
    return None, NOT_MEASURED


def _why_no_joules(results: Sequence[TrialResult]) -> str:
    return TOO_SHORT if any(r.energy_is_short and r.joules is not None for r in results) else NO_ENERGY
