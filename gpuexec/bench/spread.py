"""How far repeats of one figure lie apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from gpuexec.records import Record
from gpuexec.report.statistics import Interval, mean, mean_interval, standard_deviation

STEADY_BELOW, UNSTABLE_ABOVE = 0.05, 0.2  # coefficients of variation


class Steadiness(StrEnum):
    """What a coefficient of variation means."""

    STEADY = "steady"  # under 5 %
    VARIABLE = "variable"
    UNSTABLE = "unstable"  # over 20 %


class Spread(Record):
    """A figure of one or more repeats, in the unit of the figure.

    ``sd``: the sample's standard deviation. ``low``, ``high``: the t interval of the mean at 95 %. ``cv``: ``sd`` as a
    share of the mean. All are ``None`` for one repeat, which shows no spread, and ``cv`` also for a mean of 0.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    cv: float | None
    n: int

    @property
    def word(self) -> Steadiness | None:
        """Return how steady the figure is; ``None`` if that is not known."""
        if self.cv is None:
            return None
        if self.cv < STEADY_BELOW:
            return Steadiness.STEADY
        return Steadiness.UNSTABLE if self.cv > UNSTABLE_ABOVE else Steadiness.VARIABLE

    @property
    def interval(self) -> Interval | None:
        """Return the interval of the mean, ``None`` for one repeat."""
        return None if self.low is None or self.high is None else Interval(self.mean, self.low, self.high)

    def overlaps(self, other: Spread) -> bool:
        """Return whether the intervals have a value in common. A single repeat counts as an interval without width."""
        ends = [
            (each.low, each.high) if each.low is not None and each.high is not None else (each.mean, each.mean)
            for each in (self, other)
        ]
        return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return the spread of the repeats of a figure; ``None`` of no value."""
    if not values:
        return None
    middle, interval = mean(values), mean_interval(values)
    if interval is None:
        return Spread(middle, None, None, None, None, 1)
    sd = standard_deviation(values)
    return Spread(middle, sd, interval.low, interval.high, sd / abs(middle) if middle else None, len(values))
