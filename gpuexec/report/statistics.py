"""Whether repeats of two configurations differ: t intervals at 95 %, and an exact Mann-Whitney test.

Degrees of freedom are rounded down, which makes intervals a little wider. For whole degrees Student's distribution is a
finite sum. The Mann-Whitney test counts all ways to share the observed ranks out, so ties are counted as they are: runs
often have the same peak of memory. docs/comparing-runs.md says why this is not taken from SciPy.

Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from gpuexec.records import Record

CONFIDENCE = 0.95
MOST_RANKED = 20  # values of each side, for the exact test
_MOST_DEGREES = 1000  # beyond that the distribution is the normal one, to three digits
_HALVINGS = 60


class Interval(Record):
    """An estimate, and the interval that holds the true value at the given confidence."""

    estimate: float
    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Return the mean of one or more values."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of the sample: of two or more values."""
    return math.sqrt(_variance(values))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the mean with its t interval at 95 %; ``None`` of fewer than two values."""
    if len(values) < 2:
        return None
    middle = mean(values)
    half = t_quantile(_tail(), len(values) - 1) * math.sqrt(_variance(values) / len(values))
    return Interval(middle, middle - half, middle + half)


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Return by how much the mean of ``second`` is above that of ``first``, with its t interval at 95 %.

    The variances may differ (Welch). ``None`` if a side has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    difference = mean(second) - mean(first)
    error, degrees = _welch(first, second)
    half = t_quantile(_tail(), degrees) * error if error else 0.0
    return Interval(difference, difference - half, difference + half)


def difference_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the probability of a difference of means as large as this if there is none (Welch's t test, two-sided).

    ``None`` if a side has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    difference = abs(mean(second) - mean(first))
    error, degrees = _welch(first, second)
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * (1 - t_probability(difference / error, degrees))


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the exact two-sided p of the Mann-Whitney test, ties included; ``None`` of no value or more than 20."""
    sizes = len(first), len(second)
    if not min(sizes) or max(sizes) > MOST_RANKED:
        return None
    ranks = _doubled_ranks([*first, *second])
    counts = _rank_sums(tuple(sorted(ranks)), len(first))
    ways = math.comb(sum(sizes), len(first))
    twice_expected = len(first) * (sum(sizes) + 1)
    distance = abs(sum(ranks[: len(first)]) - twice_expected)
    return sum(n for total, n in enumerate(counts) if abs(total - twice_expected) >= distance) / ways


def smallest_mann_whitney_p(first: int, second: int) -> float:
    """Return the smallest p that the test can give for sides of these sizes."""
    return min(1.0, 2 / math.comb(first + second, first))


def t_probability(t: float, degrees: int) -> float:
    """Return the probability that Student's t, with a whole number of degrees of freedom, is at most ``t``."""
    if degrees > _MOST_DEGREES:
        return 0.5 * math.erfc(-t / math.sqrt(2))
    # P(|T| <= t) is a finite trigonometric sum (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    angle = math.atan2(abs(t), math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine_squared * k / (k + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + math.copysign(min(inside, 1.0) / 2, t)


@lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t does not exceed with this probability, from 0.5 up to, but not with, 1."""
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return high


def _tail() -> float:
    return (1 + CONFIDENCE) / 2


def _variance(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, int]:
    """Return the standard error of the difference of means, and its degrees of freedom, rounded down."""
    parts = [_variance(values) / len(values) for values in (first, second)]
    largest = max(parts)
    if not largest:
        return 0.0, 1
    shares = [part / largest for part in parts]  # their squares may be too small for a float
    spread = math.fsum(share**2 / (len(v) - 1) for share, v in zip(shares, (first, second), strict=True))
    return math.sqrt(sum(parts)), max(1, math.floor(sum(shares) ** 2 / spread + 1e-9))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value; equal values share the mean of their ranks, so twice of it is whole."""
    below = {value: sum(other < value for other in values) for value in set(values)}
    return [2 * below[value] + values.count(value) + 1 for value in values]


@lru_cache(maxsize=64)
def _rank_sums(ranks: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return in how many ways ``size`` of the ranks have each sum."""
    most = sum(ranks[-size:])
    counts = [[0] * (most + 1) for _ in range(size + 1)]
    counts[0][0] = 1
    for rank in ranks:
        for chosen in range(size, 0, -1):
            without, having = counts[chosen - 1], counts[chosen]
            counts[chosen] = [*having[:rank], *[a + b for a, b in zip(having[rank:], without)]]  # noqa: B905
    return tuple(counts[size])
