"""Which points of a sweep are best. Pure.

Points are ranked by the mean of the goal's figure, those that reached a later rung of a halving search first. A point
with a repeat that failed is never the best: it may fail again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from gpuexec.bench.answer import Answer, answer
from gpuexec.bench.model import Sweep
from gpuexec.bench.summary import AIMS, Aim, PointSummary, summarise
from gpuexec.records import Record
from gpuexec.report.figures import HIGHER


class Analysis(Record):
    """What a sweep shows.

    ``points``: best first; then those without the goal's figure, then those of which a repeat failed, then those that
    are not measured yet, each in the sweep's order. ``best`` and ``answer``: ``None`` if none has the goal's figure.
    """

    points: tuple[PointSummary, ...]
    best: PointSummary | None
    answer: Answer | None

    @property
    def has_energy(self) -> bool:
        """Whether there is a front of throughput and joules."""
        return any(point.on_front for point in self.points)


def analyse(sweep: Sweep) -> Analysis:
    """Return what the sweep shows so far."""
    aim = AIMS[sweep.goal]
    points = _with_front(sorted(summarise(sweep), key=lambda point: _place(point, aim)))
    best = points[0] if points and _can_be_best(points[0], aim) else None
    if best is not None:
        equals = [replace(point, equally_good=_is_equal(point, best, aim)) for point in points[1:]]
        points = [replace(best, is_best=True), *equals]
        best = points[0]
    return Analysis(tuple(points), best, None if best is None else answer(sweep, points))


def _can_be_best(point: PointSummary, aim: Aim) -> bool:
    return point.is_usable and point.spread(aim.figure) is not None


def _place(point: PointSummary, aim: Aim) -> tuple[float, ...]:
    if not _can_be_best(point, aim):
        return (1 if point.is_usable else 2 if point.status is not None else 3,)
    spread = point.spread(aim.figure)
    assert spread is not None
    return 0, -point.rung, -spread.mean if aim.better == HIGHER else spread.mean


def _is_equal(point: PointSummary, best: PointSummary, aim: Aim) -> bool:
    """Return whether a point may be as good as the best one. One repeat of the best shows nothing about that."""
    if point.rung != best.rung or not _can_be_best(point, aim):
        return False
    mine, its = point.spread(aim.figure), best.spread(aim.figure)
    assert mine is not None
    assert its is not None
    return its.interval is not None and mine.overlaps(its)


def _with_front(points: Sequence[PointSummary]) -> list[PointSummary]:
    """Mark the points that no other one beats in both throughput and joules per item, by their means."""
    known = sorted(
        (-point.throughput.mean, point.joules_per_item.mean, place)
        for place, point in enumerate(points)
        if point.is_usable and point.throughput is not None and point.joules_per_item is not None
    )
    front = set()
    fewest = float("inf")
    for _, same_throughput in groupby(known, key=lambda entry: entry[0]):
        entries = list(same_throughput)
        least = entries[0][1]
        if least < fewest:
            fewest = least
            front |= {place for _, joules, place in entries if joules == least}
    return [replace(point, on_front=place in front) for place, point in enumerate(points)]
