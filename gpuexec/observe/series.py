"""Time series of bounded size: what a run measured, in at most 512 bins however long it goes on.

When a time lies behind the last bin that there is room for, the bins' width doubles and neighbours are merged in pairs.
So the series of one run that begin with the same width can be brought to a common one (`common_width`, `at_width`).

* ``SampleSeries``: readings at moments. A bin keeps their count, mean, minimum and maximum. One without readings is a
  gap, and gaps are never filled.
* ``AmountSeries``: amounts that add up, such as worker-seconds or tasks. A bin keeps their sum.

All times are seconds of one clock. Those before ``start`` count as ``start``. The module is pure: it reads no clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple, Self

MAX_BINS = 512


class Bin(NamedTuple):
    """The readings of one bin. ``samples``: how many, 1 or more."""

    samples: int
    mean: float
    min: float
    max: float


class _Binned(ABC):
    """Finds the bin of a time, and doubles the width when there are too many."""

    __slots__ = ("bin_s", "max_bins", "start")

    def __init__(self, start: float, bin_s: float, max_bins: int = MAX_BINS) -> None:
        if not (math.isfinite(start) and math.isfinite(bin_s) and bin_s > 0 and max_bins >= 1):
            raise ValueError(f"a series needs a time, a width above 0 and bins; got {start!r}, {bin_s!r}, {max_bins!r}")
        self.start = start
        self.bin_s = bin_s
        self.max_bins = max_bins

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of bins, up to the last one that something was added to."""

    @abstractmethod
    def _merge_pairs(self) -> None:
        """Merge each bin with its right neighbour."""

    def _bin_of(self, at: float) -> int:
        """Return the index of the bin of a time, after doubling the width as often as needed."""
        number = (at - self.start) / self.bin_s
        if number < 0:
            return 0
        while number >= self.max_bins:  # false for NaN, which int() refuses
            if number == math.inf:
                raise ValueError("a time in a series must be finite")
            self._merge_pairs()
            self.bin_s *= 2
            number /= 2  # exact, so a time never changes its place among the merged bins
        return int(number)

    def _widen_to(self, bin_s: float) -> None:
        while self.bin_s < bin_s:
            self._merge_pairs()
            self.bin_s *= 2
        if self.bin_s != bin_s:
            raise ValueError(f"bins of {self.bin_s:g} s do not make up bins of {bin_s:g} s")


class SampleSeries(_Binned):
    """Readings at moments, such as a GPU's memory in use.

    ``bin_s``: width of the bins to begin with, in seconds. It should be no less than the time between two readings:
    otherwise bins between them stay empty and look like gaps.
    """

    __slots__ = ("_counts", "_highest", "_lowest", "_sums")

    def __init__(self, start: float, bin_s: float, max_bins: int = MAX_BINS) -> None:
        super().__init__(start, bin_s, max_bins)
        self._counts: list[int] = []
        self._sums: list[float] = []
        self._lowest: list[float] = []
        self._highest: list[float] = []

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, at: float, value: float) -> None:
        """Add a reading, in any order. Raises ``ValueError`` if the time or the value is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"a reading in a series must be finite, got {value!r}")
        self._add(self._bin_of(at), 1, value, value, value)

    def merge(self, other: SampleSeries) -> None:
        """Add the readings of another series with the same start and, to begin with, the same width."""
        wider = max(self.bin_s, other.bin_s)
        self._widen_to(wider)
        for number, found in enumerate(other.at_width(wider).bins()):
            if found is not None:
                middle = self.start + (number + 0.5) * wider
                self._add(self._bin_of(middle), found.samples, found.mean * found.samples, found.min, found.max)

    def bins(self) -> list[Bin | None]:
        """Return the bins in order, ``None`` for a gap. Bin ``i`` begins at ``start + i * bin_s``."""
        return [
            Bin(count, min(max(total / count, low), high), low, high) if count else None
            for count, total, low, high in zip(self._counts, self._sums, self._lowest, self._highest, strict=True)
        ]

    def whole(self) -> Bin | None:
        """Return count, mean, minimum and maximum of all readings, ``None`` if there are none."""
        count = sum(self._counts)
        if not count:
            return None
        low, high = min(self._lowest), max(self._highest)
        return Bin(count, min(max(math.fsum(self._sums) / count, low), high), low, high)

    def at_width(self, bin_s: float) -> Self:
        """Return a copy with wider bins. Raises ``ValueError`` unless its width is 1, 2, 4, 8, … times this one."""
        copy = type(self)(self.start, self.bin_s, self.max_bins)
        copy._counts, copy._sums = self._counts.copy(), self._sums.copy()
        copy._lowest, copy._highest = self._lowest.copy(), self._highest.copy()
        copy._widen_to(bin_s)
        return copy

    def _add(self, number: int, count: int, total: float, low: float, high: float) -> None:
        missing = number + 1 - len(self._counts)
        if missing > 0:
            self._counts += [0] * missing
            self._sums += [0.0] * missing
            self._lowest += [math.inf] * missing
            self._highest += [-math.inf] * missing
        self._counts[number] += count
        self._sums[number] += total
        self._lowest[number] = min(self._lowest[number], low)
        self._highest[number] = max(self._highest[number], high)

    def _merge_pairs(self) -> None:
        pairs = range(0, len(self._counts), 2)
        self._counts = [sum(self._counts[i : i + 2]) for i in pairs]
        self._sums = [sum(self._sums[i : i + 2]) for i in pairs]
        self._lowest = [min(self._lowest[i : i + 2]) for i in pairs]
        self._highest = [max(self._highest[i : i + 2]) for i in pairs]


class AmountSeries(_Binned):
    """Amounts that add up, such as the seconds that a stage's workers were busy, or the tasks it finished.

    ``bin_s``: width of the bins to begin with, in seconds. A gauge, such as a queue's length, can be kept too: spread
    value times seconds over the time it held, and divide a bin's amount by the time that it covers.
    """

    __slots__ = ("_amounts",)

    def __init__(self, start: float, bin_s: float, max_bins: int = MAX_BINS) -> None:
        super().__init__(start, bin_s, max_bins)
        self._amounts: list[float] = []

    def __len__(self) -> int:
        return len(self._amounts)

    def add(self, at: float, amount: float) -> None:
        """Add an amount to the bin of a moment. Raises ``ValueError`` if the time is not finite."""
        self._add(self._bin_of(at), amount)

    def spread(self, began: float, ended: float, amount: float) -> None:
        """Spread an amount, 0 or more, evenly over the time from ``began`` to ``ended``: each bin gets its part of it.

        For the seconds of one worker, ``amount`` is ``ended - began``. What began before ``start`` is spread from
        there. Raises ``ValueError`` if a time is not finite.
        """
        last = self._bin_of(ended)  # first, since it may change the width
        first = self._bin_of(began)
        if first >= last:
            self._add(last, amount)
            return
        began = max(began, self.start)
        per_second = amount / (ended - began)
        left = amount
        for number in range(last, first, -1):
            bin_began = self.start + number * self.bin_s
            part = min(left, per_second * (ended - bin_began))
            if part > 0:  # it is 0 in the last bin if the time ends where that begins
                self._add(number, part)
                left -= part
            ended = bin_began
        self._add(first, left)  # the rest, so that nothing is lost to rounding

    def merge(self, other: AmountSeries) -> None:
        """Add the amounts of another series with the same start and, to begin with, the same width."""
        wider = max(self.bin_s, other.bin_s)
        self._widen_to(wider)
        for number, amount in enumerate(other.at_width(wider).amounts()):
            self._add(self._bin_of(self.start + (number + 0.5) * wider), amount)

    def amounts(self) -> list[float]:
        """Return the amount of each bin, 0.0 where there is none."""
        return self._amounts.copy()

    def total(self) -> float:
        """Return the sum of all amounts."""
        return math.fsum(self._amounts)

    def at_width(self, bin_s: float) -> Self:
        """Return a copy with wider bins. Raises ``ValueError`` unless its width is 1, 2, 4, 8, … times this one."""
        copy = type(self)(self.start, self.bin_s, self.max_bins)
        copy._amounts = self._amounts.copy()
        copy._widen_to(bin_s)
        return copy

    def _add(self, number: int, amount: float) -> None:
        missing = number + 1 - len(self._amounts)
        if missing > 0:
            self._amounts += [0.0] * missing
        self._amounts[number] += amount

    def _merge_pairs(self) -> None:
        self._amounts = [sum(self._amounts[i : i + 2]) for i in range(0, len(self._amounts), 2)]


def common_width(series: Iterable[SampleSeries | AmountSeries]) -> float:
    """Return the width that all of these series can be brought to: that of the widest. Raises ``ValueError`` if none.

    They must have begun with the same width, or with 2, 4, 8, … times it.
    """
    return max(one.bin_s for one in series)
