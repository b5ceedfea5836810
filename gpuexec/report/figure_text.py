"""Figures of a comparison as text. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuexec.report.wording import energy, percent, rate, seconds
from gpuexec.units import format_bytes

NO_READING = "–"
_MINUS = "\N{MINUS SIGN}"
_ZEROS = {"tasks/s": "0 tasks/s", "J": "0 J"}
_FORMATS: Mapping[str, Callable[[float], str]] = {
    "s": seconds,
    "share": percent,
    "bytes": format_bytes,
    "J": energy,
    "": "{:,.4g}".format,
}
_MANY_TIMES = 3.0  # from here on, "3.2 times" says more than "+220 %"


def value_text(value: float | None, unit: str, beside: float | None = None) -> str:
    """Return a figure with its unit; a dash for ``None``. A rate gets the unit that suits the one ``beside`` it too."""
    if value is None:
        return NO_READING
    if value == 0 and unit in _ZEROS:
        return _ZEROS[unit]
    if unit == "tasks/s":
        return rate(value, beside=beside or 0.0)
    return _FORMATS[unit](value)


def ends_text(figure: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a figure was and has become."""
    before, after, unit = figure["before"]["mean"], figure["after"]["mean"], figure["unit"]
    return value_text(before, unit, beside=after), value_text(after, unit, beside=before)


def change_text(figure: Mapping[str, Any]) -> str:
    """Return by how much a figure changed, in percent, shares in percentage points; a dash if unknown."""
    difference, before = figure["difference"], figure["before"]["mean"]
    if difference is None:
        return NO_READING
    if figure["unit"] == "share":
        return f"{_signed(difference * 100, 1)} pp"
    if not before or before < 0:
        return "0 %" if difference == 0 else _signed_value(difference, figure["unit"])
    if difference / before >= _MANY_TIMES - 1:
        return f"× {difference / before + 1:.3g}"
    return f"{_signed(difference / before * 100)} %"


def interval_text(figure: Mapping[str, Any]) -> str:
    """Return the interval of a change, in the unit of `change_text`; nothing where there are no repeats."""
    low, high, before = figure["low"], figure["high"], figure["before"]["mean"]
    if low is None or high is None:
        return ""
    if figure["unit"] == "share":
        return f"{_signed(low * 100, 1)} … {_signed(high * 100, 1)}"
    if not before or before < 0:
        return f"{_signed_value(low, figure['unit'])} … {_signed_value(high, figure['unit'])}"
    if figure["difference"] / before >= _MANY_TIMES - 1 and low + before > 0:
        return f"× {low / before + 1:.3g} … {high / before + 1:.3g}"
    return f"{_signed(low / before * 100)} … {_signed(high / before * 100)}"


def around_text(figure: Mapping[str, Any]) -> str:
    """Return half the width of the interval of a mean: ``"± 2.1 s"``; nothing where there are no repeats."""
    if figure["low"] is None or figure["high"] is None:
        return ""
    half = (figure["high"] - figure["low"]) / 2
    return (
        f"± {half * 100:.1f} pp"
        if figure["unit"] == "share"
        else f"± {value_text(half, figure['unit'], figure['mean'])}"
    )


def _signed(value: float, digits: int = 0) -> str:
    size = abs(value)
    digits = max(digits, 1 if size < 10 else 0)
    shown = f"{size:,.{digits}f}"
    if not shown.strip("0.,"):
        return "0"
    return f"{_MINUS if value < 0 else '+'}{shown}"


def _signed_value(value: float, unit: str) -> str:
    return "0" if value == 0 else f"{_MINUS if value < 0 else '+'}{value_text(abs(value), unit)}"
