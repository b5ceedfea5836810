"""What GPUs used in joules, and whose share it was. Pure arithmetic.

What a device used is measured: it is the difference of two readings of its own counter. The counter moves about ten
times a second, so less than 10 s of it is called "short". Whose share that was nobody measures: it is an attribution.
What the device would have used anyway, its idle power, is set apart; what is above that is divided among those that
were busy, by their busy time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MEASURED_FROM_S = 10.0
MIN_IDLE_S = 1.0  # less says little, as the counter moves about ten times a second

_ROUND = 2**32  # where a counter of 32 bits goes round
_MAX_WATTS = 3000.0  # of one device: a difference that would be more is none
_SHORTEST_BUSY_S = 1e-9  # a tick of the clock; joules divided by less may overflow, so they count as used at rest


class EnergyKind(StrEnum):
    """How good a number of joules is."""

    MEASURED = "measured"
    SHORT = "short"
    ATTRIBUTED = "attributed"


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """What a device used within ``seconds``. ``None``: unknown, and ``reason`` says why.

    ``kind``: measured or short. ``reason`` may also say what is not included.
    """

    joules: float | None
    seconds: float
    kind: EnergyKind | None
    reason: str | None = None


class EnergyMeter:
    """Adds up what a device used, from readings of its counter, the earliest first.

    A reading that is missing costs nothing, since the next one has counted on. What was used while the counter was set
    back, as by a reset of the GPU, is lost.
    """

    __slots__ = ("_last", "_reason", "_resets", "joules", "seconds")

    def __init__(self) -> None:
        self.joules = 0.0
        self.seconds = 0.0  # in which they were used
        self._last: tuple[float, int] | None = None
        self._reason: str | None = None
        self._resets = 0

    def add(self, at: float, millijoules: int | None, reason: str | None = None) -> tuple[float, float] | None:
        """Add a reading, or why there is none.

        Return since when it counts, in seconds of the clock of ``at``, and the joules used since then. Return ``None``
        if it is the first one, or the counter was set back.
        """
        if millijoules is None:
            self._reason = reason
            return None
        last, self._last = self._last, (at, millijoules)
        if last is None or at <= last[0]:
            return None
        used = _difference(last[1], millijoules, at - last[0])
        if used is None:
            self._resets += 1
            return None
        self.joules += used / 1000
        self.seconds += at - last[0]
        return last[0], used / 1000

    def result(self) -> DeviceEnergy:
        """Return what has been used so far."""
        if not self.seconds:
            why = "the counter was set back" if self._resets else "its counter was read less than twice"
            return DeviceEnergy(None, 0.0, None, self._reason or why)
        kind = EnergyKind.MEASURED if self.seconds >= MEASURED_FROM_S else EnergyKind.SHORT
        times = f"{self._resets} times" if self._resets > 1 else "once"
        reason = f"the counter was set back {times}; what was used just then is not included" if self._resets else None
        return DeviceEnergy(self.joules, self.seconds, kind, reason)


def _difference(before: int, now: int, seconds: float) -> int | None:
    """Return the millijoules between two readings; ``None`` if the counter was set back."""
    if now >= before:
        return now - before
    if before < _ROUND:
        round_the_end = _ROUND - before + now
        if round_the_end <= _MAX_WATTS * 1000 * seconds:
            return round_the_end
    return None


@dataclass(frozen=True, slots=True)
class IdlePower:
    """An estimate of what a device draws while no worker on it is busy. ``None``: unknown, and ``reason`` says why.

    ``seconds``: how much of such time it was estimated from.
    """

    watts: float | None
    seconds: float
    reason: str | None = None


def idle_power(joules: Sequence[float], seconds: Sequence[float], busy_s: Sequence[float]) -> IdlePower:
    """Estimate the idle power from bins of one width.

    ``joules``: used in each bin. ``seconds``: how much of the bin that covers. ``busy_s``: seconds that workers on the
    device were busy in it. Sequences that are shorter go on with zeros. Only bins without any work count, and not those
    beside one with work, as they may hold some of its joules.
    """
    numbers = [i for i in range(min(len(joules), len(seconds))) if not any(busy_s[max(0, i - 1) : i + 2])]
    used, covered = sum(joules[i] for i in numbers), sum(seconds[i] for i in numbers)
    if covered < MIN_IDLE_S:
        return IdlePower(None, covered, "there was less than a second, and some margin, without work on this device")
    return IdlePower(used / covered, covered)


@dataclass(frozen=True, slots=True)
class Attribution:
    """A device's joules, divided: ``idle_joules`` and the shares of all that were busy add up to ``joules``.

    ``idle_joules``: what it would have used at idle power, and all that was used while nobody was busy.
    ``joules_per_busy_s``: in each bin, what is above that, for each second that somebody was busy. ``reason``: what
    makes the division less exact.
    """

    joules: float
    idle_joules: float
    joules_per_busy_s: tuple[float, ...]
    reason: str | None = None

    def share(self, busy_s: Sequence[float]) -> float:
        """Return the joules of somebody who was busy for so many seconds in each bin."""
        return sum(joules * seconds for joules, seconds in zip(self.joules_per_busy_s, busy_s, strict=False))


def attribute(
    joules: Sequence[float], seconds: Sequence[float], busy_s: Sequence[float], idle: IdlePower
) -> Attribution:
    """Divide a device's joules by busy time, bin by bin.

    ``joules``, ``seconds`` and ``busy_s``, of all together: as for `idle_power`. If the idle power is unknown it cannot
    be set apart; then the shares include it, and ``reason`` says so.
    """
    idle_joules = 0.0
    per_busy_s = []
    for number, used in enumerate(joules):
        busy = _at(busy_s, number)
        busy = busy if busy >= _SHORTEST_BUSY_S else 0.0
        at_rest = used if not busy else min(used, (idle.watts or 0.0) * _at(seconds, number))
        idle_joules += at_rest
        per_busy_s.append((used - at_rest) / busy if busy else 0.0)
    reason = None
    if idle.watts is None:
        reason = f"the shares include idle power, which is unknown: {idle.reason}"
    return Attribution(sum(joules), idle_joules, tuple(per_busy_s), reason)


def _at(values: Sequence[float], index: int) -> float:
    return values[index] if index < len(values) else 0.0
