"""Histograms of durations, with four bins to an octave.

A bin's upper bound is at most a quarter above its lower one, so a quantile that is read from the bins is at most that
far off. A histogram is a dict from bin number to count; adding two of them loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_BINS_PER_OCTAVE = 4
_SHORTEST_S = 1e-9  # the clock's resolution; a batch of "no" time belongs to the lowest bin that occurs

Histogram = dict[int, int]


def bin_of(seconds: float) -> int:
    """Return the number of the bin that a duration belongs to."""
    mantissa, exponent = math.frexp(max(_SHORTEST_S, seconds))
    return _BINS_PER_OCTAVE * exponent + int(mantissa * 8) - 4  # the mantissa is in [0.5, 1)


def bounds(number: int) -> tuple[float, float]:
    """Return the lowest duration of a bin, and the duration from which on the next bin begins, in seconds."""
    exponent, quarter = divmod(number, _BINS_PER_OCTAVE)
    return math.ldexp((quarter + 4) / 8, exponent), math.ldexp((quarter + 5) / 8, exponent)


def add_to(histogram: Histogram, other: Mapping[int, int]) -> None:
    """Add the counts of another histogram."""
    for number, count in other.items():
        histogram[number] = histogram.get(number, 0) + count


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Return the duration that this share of all counted ones does not exceed, in seconds; ``None`` without any.

    It lies in the right bin, in proportion to the counts, so it is at most a quarter off.
    """
    wanted = share * sum(histogram.values())
    for number in sorted(histogram):
        count = histogram[number]
        if wanted <= count:
            low, high = bounds(number)
            return low + (high - low) * wanted / count if count else high
        wanted -= count
    return None
