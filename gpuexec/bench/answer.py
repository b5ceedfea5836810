"""The answer of a sweep: the settings to use, and what they gain over today's, in words. Pure.

A gain is shown if the t interval at 95 % of the difference of the two means (Welch) excludes 0. The best of many points
is partly the luckiest one, which no interval of two points knows: docs/benchmarking.md says how to confirm it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

from gpuexec.bench.labels import end_text, figure_name, goal_text, is_today, settings_text
from gpuexec.bench.model import TODAY, Goal, SearchKind, Sweep
from gpuexec.bench.snippet import snippet
from gpuexec.bench.spread import Steadiness
from gpuexec.bench.summary import AIMS, PointSummary, figures_of
from gpuexec.records import Record
from gpuexec.report.figure_text import change_text, interval_text
from gpuexec.report.figures import HIGHER
from gpuexec.report.statistics import Interval, difference_interval, mean
from gpuexec.report.wording import counted, on_one_line, percent

_MOST_NAMED = 4  # points in a sentence
_MOST_MARKS = 2


class Finding(StrEnum):
    """What the answer rests on."""

    TODAY = "today"  # today's configuration is the best
    SHOWN = "shown"  # the best gains over today's
    NOISE = "noise"  # it may gain, or not: the interval holds 0
    ONE_REPEAT = "one_repeat"  # there is no interval
    NO_COMPARISON = "no_comparison"  # today's configuration has no such figure


class Answer(Record):
    """The settings to use.

    ``snippet``: Python text that makes them so. ``gain``: the relative gain of the goal's figure over today's, 0.1 for
    10 % more items per second or 10 % fewer joules per item; ``None`` without an interval. ``sentences``: what to
    know, the most important first.
    """

    point_id: str
    finding: Finding
    snippet: str
    gain: Interval | None
    sentences: tuple[str, ...]

    @property
    def words(self) -> str:
        """Return all of it as one text."""
        return " ".join(self.sentences)


class _Comparison(Record):
    """The goal's figure of today's configuration and of the best point, over the same kind of runs."""

    before: float
    after: float
    interval: Interval | None  # of after - before
    rung: int

    def text(self) -> str:
        """Return the change, with its interval where there is one: ``"+42 %; 95 %: +35 … +49"``."""
        figure = {
            "difference": self.after - self.before,
            "low": self.interval.low if self.interval else None,
            "high": self.interval.high if self.interval else None,
            "before": {"mean": self.before},
            "unit": "",
        }
        ends = interval_text(figure)
        return change_text(figure) + (f"; 95 %: {ends}" if ends else "")


def answer(sweep: Sweep, points: Sequence[PointSummary]) -> Answer:
    """Return the answer. ``points``: as `analysis.Analysis` ranks them; the first one is the best."""
    best = points[0]
    today = next((point for point in points if point.point.id == TODAY), None)
    comparison = _compared(sweep, today, best) if today else None
    gain = _gain(comparison, sweep.goal)
    finding = _finding(sweep, best, comparison, gain)
    return Answer(
        point_id=best.point.id,
        finding=finding,
        snippet=snippet(sweep, best.point),
        gain=None if finding is Finding.TODAY else gain,
        sentences=(
            _lead(sweep, points, today, comparison, finding),
            *_about_equals(best, points, sweep.goal),
            *_about_energy(sweep.goal, best, points),
            *_about_doubts(best, sweep.goal),
            *_about_failures(points),
            *_about_the_search(sweep, comparison),
        ),
    )


def _compared(sweep: Sweep, today: PointSummary, best: PointSummary) -> _Comparison | None:
    """Compare the two in the last rung that both reached."""
    if not today.is_usable:
        return None
    rung = min(today.rung, best.rung)
    values = [
        figures_of(
            [r for r in sweep.counted if r.trial.point_id == point.point.id and r.trial.rung == rung],
            AIMS[sweep.goal].figure,
        )
        for point in (today, best)
    ]
    if not all(values):
        return None
    before, after = values
    return _Comparison(mean(before), mean(after), difference_interval(before, after), rung)


def _gain(comparison: _Comparison | None, goal: Goal) -> Interval | None:
    if comparison is None or comparison.interval is None or comparison.before <= 0:
        return None
    estimate, low, high = (end / comparison.before for end in comparison.interval.to_tuple())
    return Interval(estimate, low, high) if AIMS[goal].better == HIGHER else Interval(-estimate, -high, -low)


def _finding(sweep: Sweep, best: PointSummary, comparison: _Comparison | None, gain: Interval | None) -> Finding:
    if is_today(sweep, best.point):
        return Finding.TODAY
    if comparison is None:
        return Finding.NO_COMPARISON
    if gain is None:
        return Finding.ONE_REPEAT
    return Finding.SHOWN if gain.low > 0 else Finding.NOISE


def _lead(
    sweep: Sweep,
    points: Sequence[PointSummary],
    today: PointSummary | None,
    comparison: _Comparison | None,
    finding: Finding,
) -> str:
    best, goal = points[0], sweep.goal
    spread = best.spread(AIMS[goal].figure)
    figure = goal_text(goal, spread.mean if spread else None)
    settings = settings_text(sweep, best.point)
    name = f"{best.point.id} ({settings})" if settings else best.point.id
    measured = sum(point.is_usable for point in points)
    if finding is Finding.TODAY:
        what = "the only one that went through" if measured == 1 else f"the best of {counted(measured, 'point')}"
        return f"Keep today's configuration: it is {what}, with {figure}."
    if comparison is None:
        return f"{name} is the best that was measured, with {figure}. {_why_not_compared(today, goal)}"
    before, after = (goal_text(goal, value) for value in (comparison.before, comparison.after))
    figures = f"{figure_name(goal)} {after}, today {before} ({comparison.text()})"
    if finding is Finding.SHOWN:
        return f"Use {name}: {figures}."
    if finding is Finding.NOISE:
        return f"No gain over today's configuration is shown. The best is {name}: {figures}."
    return (
        f"{name} was the best: {figures}. There is only one run of it, or of today's configuration, and so no "
        "interval: this may be chance. Repeat each point at least three times to know."
    )


def _why_not_compared(today: PointSummary | None, goal: Goal) -> str:
    start = "It cannot be compared with today's configuration"
    if today is None or today.status is None:
        return f"{start}, which was not measured."
    if not today.is_usable:
        return f"{start}, which has no result: {end_text(today.status)} ({on_one_line(today.reason, 120)})."
    reason = today.joules_reason if goal is Goal.JOULES else None
    return f"{start}, whose {figure_name(goal)} is not known{f': {reason}' if reason else ''}."


def _about_equals(best: PointSummary, points: Sequence[PointSummary], goal: Goal) -> Iterator[str]:
    equals = [point for point in points if point.equally_good]
    if not equals:
        return
    yield f"{_are(equals)} equally good: the 95 % intervals overlap that of {best.point.id}."
    unstable = [point for point in equals if _is_unstable(point, goal)]
    if best.n == 2:
        yield "Two repeats give wide intervals: more of them would tell points apart."
    elif unstable:
        yield f"{_are(unstable)} unstable between repeats, which makes the intervals wide: more of them would tell."


def _about_energy(goal: Goal, best: PointSummary, points: Sequence[PointSummary]) -> Iterator[str]:
    """Name the other end of the front, where the goal is one end of it."""
    if goal is Goal.LATENCY:
        return
    front = [point for point in points if point.on_front and point is not best]
    figure = "joules_per_item" if goal is Goal.THROUGHPUT else "throughput"
    sign = 1.0 if goal is Goal.THROUGHPUT else -1.0
    known = [(sign * spread.mean, point) for point in front if (spread := point.spread(figure)) is not None]
    own = best.spread(figure)
    if not known or own is None:
        return
    value, other = min(known, key=lambda entry: entry[0])
    if sign * own.mean <= value:
        return
    speed, base = (point.throughput.mean if point.throughput else 0.0 for point in (other, best))
    joules, least = (point.joules_per_item.mean if point.joules_per_item else 0.0 for point in (other, best))
    what = "uses the least energy" if goal is Goal.THROUGHPUT else "has the highest throughput"
    yield (
        f"{other.point.id} {what}: {goal_text(Goal.JOULES, joules)} instead of {goal_text(Goal.JOULES, least)}, at "
        f"{percent(speed / base) if base else '?'} of the throughput of {best.point.id}."
    )


def _about_doubts(best: PointSummary, goal: Goal) -> Iterator[str]:
    spread = best.spread(AIMS[goal].figure)
    if _is_unstable(best, goal) and spread is not None and spread.cv is not None:
        yield (
            f"{best.point.id} is unstable: its {figure_name(goal)} varies by {percent(spread.cv)} between repeats "
            "(coefficient of variation)."
        )
    if best.marks:
        marks = "; ".join(on_one_line(mark, 120) for mark in best.marks[:_MOST_MARKS])
        yield f"The figures of {best.point.id} are doubtful: {marks}."


def _about_failures(points: Sequence[PointSummary]) -> Iterator[str]:
    failed = [point.point.id for point in points if point.has_failed]
    if failed:
        yield f"{counted(len(failed), 'point')} failed: {_listed(failed)}."


def _about_the_search(sweep: Sweep, comparison: _Comparison | None) -> Iterator[str]:
    last = max((result.trial.rung for result in sweep.counted), default=0)
    if sweep.search is SearchKind.HALVING and comparison is not None and comparison.rung < last:
        yield (
            f"The comparison with today's configuration is of rung {comparison.rung + 1} of {last + 1}, the last one "
            "that both reached: its runs were shorter."
        )
    if not sweep.complete:
        yield "The sweep is not complete: --resume goes on with it."


def _is_unstable(point: PointSummary, goal: Goal) -> bool:
    spread = point.spread(AIMS[goal].figure)
    return spread is not None and spread.word is Steadiness.UNSTABLE


def _are(points: Sequence[PointSummary]) -> str:
    return f"{_listed([point.point.id for point in points])} {'is' if len(points) == 1 else 'are'}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
