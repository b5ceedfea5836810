"""How figures and names appear in the sentences of a report."""

from __future__ import annotations

import time
from typing import Any

_LONGEST_NAME = 60  # a sentence stays readable


def on_one_line(text: object, most: int = _LONGEST_NAME) -> str:
    """Return a text on one line, without its end if it is long; "?" stands for nothing."""
    line = " ".join(str(text).split()) or "?"
    return f"{line[: most - 1]}…" if len(line) > most else line


def named(name: object) -> str:
    """Return a name in backticks, on one line, without its end if it is long."""
    return f"`{on_one_line(str(name).replace('`', chr(39)))}`"


def percent(share: float) -> str:
    """Return a share as text: ``"94 %"``. Small shares keep a digit, so that something is not called nothing."""
    size = abs(share) * 100
    if 0 < size < 0.1:
        return "under 0.1 %"
    return f"{share * 100:.1f} %" if 0 < size < 3 else f"{share * 100:,.0f} %"


def gained(gain: float) -> str:
    """Return a gain of throughput as text: ``"+11 %"``; large ones as ``"9.5 times the throughput"``."""
    return f"+{percent(gain)}" if gain < 1 else f"{gain + 1:.3g} times the throughput"


def seconds(duration: float) -> str:
    """Return a duration with the unit that suits it: ``"340 ms"``, ``"12.5 s"``, ``"3 min 20 s"``, ``"5 h 59 min"``.

    One that is negative, since a clock was set back, is 0.
    """
    if duration <= 0:
        return "0 s"
    if duration < 0.001:
        return f"{duration * 1e6:.0f} µs"
    if duration < 1:
        return f"{duration * 1e3:.3g} ms" if duration < 0.9995 else "1 s"
    if duration < 99.5:
        return f"{duration:.3g} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(duration / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def counted(count: float, noun: str) -> str:
    """Return a count with its noun: ``"1 task"``, ``"2,000 tasks"``."""
    shown = round(count)
    if shown == 1:
        return f"1 {noun}"
    return f"{shown:,} {noun}es" if noun.endswith(("ch", "s")) else f"{shown:,} {noun}s"


def rate(per_second: float, noun: str = "tasks", beside: float = 0.0) -> str:
    """Return a rate: ``"132 tasks/s"``, or by minute or hour where a second is too short: ``"1.4 tasks/h"``.

    ``beside``: a rate that the reader compares it with; both get the unit that suits the larger one.
    """
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if max(per_second, beside) * length >= 1 or unit == "h":
            value = per_second * length
            return f"{value:,.0f} {noun}/{unit}" if value >= 100 else f"{value:.3g} {noun}/{unit}"
    raise AssertionError("the loop returns")


def moment(posix_time: Any) -> str | None:
    """Return a POSIX time as local date and time; ``None`` for what is no time that a calendar has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(posix_time)) if posix_time is not None else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def energy(joules: float) -> str:
    """Return an energy with the unit that suits it: ``"12.5 J"``, ``"4.1 kJ"``, ``"1.3 kWh"``."""
    for unit, size in (("kWh", 3.6e6), ("kJ", 1e3), ("J", 1.0)):
        if joules >= size:
            value = joules / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{joules:.2g} J"
