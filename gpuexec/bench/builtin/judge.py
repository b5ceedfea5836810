"""What figures are beside earlier ones of the same machine, and beside a reference. Pure.

Repeats of one measurement lie closer together than measurements of different days, so they prove nothing about a
change. Three or more earlier measurements do: the new mean is expected, with 95 % confidence, inside the interval that
they predict for one more. With fewer, only a difference of a quarter is worth saying, and it is possibly chance.

Figures are judged against each other only where their conditions are the same and nothing disturbed either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from gpuexec.bench.builtin.model import Figure, MachineResult
from gpuexec.bench.spread import Steadiness
from gpuexec.records import Record
from gpuexec.report import statistics
from gpuexec.report.figures import HIGHER

_SEEN_TIMES = 1.25  # of so few measurements: what is worth a second one
_LEAST_CHANGE = 0.05  # of the earlier mean: less is no news, however steady
_ENOUGH = 3  # earlier measurements, for an interval


class Finding(StrEnum):
    """What became of a figure."""

    AS_BEFORE = "as before"
    BETTER = "better"
    WORSE = "worse"
    SEEN_BETTER = "better?"  # seen, and possibly chance
    SEEN_WORSE = "worse?"
    NO_VERDICT = "no verdict"
    FIRST = "first"  # there is nothing to compare it with
    NOT_MEASURED = "not measured"


class Judgement(Record):
    """A figure beside others. ``before``: their mean; ``n``: how many they are. ``ratio``: the figure's mean to it.

    ``reason``: why there is no verdict, ``None`` if there is one, or nothing to compare with.
    """

    key: str
    finding: Finding
    before: float | None = None
    n: int = 0
    ratio: float | None = None
    reason: str | None = None


def judge(result: MachineResult, others: Sequence[MachineResult]) -> list[Judgement]:
    """Return what each figure is beside those of other results, the oldest first."""
    return [_judged(figure, [each for one in others if (each := one.figure(figure.key))]) for figure in result.figures]


def _judged(figure: Figure, others: Sequence[Figure]) -> Judgement:
    spread = figure.spread
    if spread is None:
        return Judgement(figure.key, Finding.NOT_MEASURED, reason=figure.reason)
    measured = [(each, each.spread.mean) for each in others if each.spread is not None]
    if not measured:
        return Judgement(figure.key, Finding.FIRST)
    same = [mean for each, mean in measured if each.conditions == figure.conditions and not each.doubts]
    shown = same or [measured[-1][1]]
    before = statistics.mean(shown)
    ratio = spread.mean / before if before > 0 and math.isfinite(spread.mean / before) else None
    reason = _why_no_verdict(figure, measured[-1][0], has_same=bool(same))
    if reason is None and ratio is None:
        reason = "what it was before is 0"
    if reason is not None or ratio is None:
        return Judgement(figure.key, Finding.NO_VERDICT, before, len(shown), ratio, reason)
    return Judgement(figure.key, _finding(figure, spread.mean, same, ratio), before, len(same), ratio)


def _why_no_verdict(figure: Figure, newest: Figure, *, has_same: bool) -> str | None:
    if figure.doubts:
        return figure.doubts[0]
    spread = figure.spread
    if spread is not None and spread.word is Steadiness.UNSTABLE:
        return f"its repeats differ by {spread.cv or 0.0:.0%}"
    if has_same:
        return None
    changed = differences(newest.conditions, figure.conditions)
    disturbed = f"when it was measured before, {newest.doubts[0]}" if newest.doubts else "the conditions were others"
    return "; ".join(changed) or disturbed


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two sets of conditions, a phrase for each."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name.replace('_', ' ')}: {before.get(name, 'unknown')} → {after.get(name, 'unknown')}" for name in names]


def _finding(figure: Figure, mean: float, earlier: Sequence[float], ratio: float) -> Finding:
    is_better = (ratio > 1) == (figure.better == HIGHER)
    if len(earlier) < _ENOUGH:
        if 1 / _SEEN_TIMES <= ratio <= _SEEN_TIMES:
            return Finding.AS_BEFORE
        return Finding.SEEN_BETTER if is_better else Finding.SEEN_WORSE
    low, high = expected(earlier)
    if low <= mean <= high or abs(ratio - 1) < _LEAST_CHANGE:
        return Finding.AS_BEFORE
    return Finding.BETTER if is_better else Finding.WORSE


def expected(earlier: Sequence[float]) -> tuple[float, float]:
    """Return the interval in which one more measurement is expected after two or more, with 95 % confidence."""
    middle, sd, n = statistics.mean(earlier), statistics.standard_deviation(earlier), len(earlier)
    half = statistics.t_quantile((1 + statistics.CONFIDENCE) / 2, n - 1) * sd * math.sqrt(1 + 1 / n)
    return middle - half, middle + half
