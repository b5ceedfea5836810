"""Suggestions as text that fits a terminal. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from gpuexec.report.columns import Column, lay_out, printable
from gpuexec.report.wording import gained, named, on_one_line
from gpuexec.units import format_bytes

_INDENT = "   "
_LEAST_WIDTH = 40

Data = Mapping[str, Any]


def suggestion_lines(found: Data, width: int) -> Iterator[str]:
    """Yield lines of at most ``width`` columns, and no less than 40. ``found``: as `suggestions_as_dict` makes it.

    The lines of Python are not wrapped, since they are to be copied.
    """
    for line in _lines(found, max(_LEAST_WIDTH, width)):
        yield printable(line)


def predicted(suggestion: Data) -> str:
    """Return the gain that was predicted: ``"+17 %"``, or ``"up to +17 %"`` where the figures show only a bound."""
    gain = gained(suggestion["gain_share"])
    return f"up to {gain}" if suggestion["at_most"] else gain


def _lines(found: Data, width: int) -> Iterator[str]:
    yield from _wrapped(f"{named(found['pipeline'])} ({on_one_line(found['run_id'])}). {found['limit'] or ''}", width)
    if found["why_none"]:
        yield ""
        yield from _wrapped(found["why_none"], width)
    for number, suggestion in enumerate(found["suggestions"], start=1):
        yield ""
        yield from _suggestion(number, suggestion, width)
    if found["gpu_memory"]:
        yield ""
        yield from _sizes(found["gpu_memory"], width)
    if found["suggestions"]:
        yield ""
        yield from _wrapped(
            "Each gain is what the run's own figures predict for that change alone. A sweep measures them: "
            f"gpuexec bench TARGET --from {on_one_line(found['run_id'])}",
            width,
        )


def _suggestion(number: int, suggestion: Data, width: int) -> Iterator[str]:
    yield from _wrapped(f"{number}. {predicted(suggestion)}: {suggestion['text']}", width, later=_INDENT)
    yield from (f"{_INDENT}    {line}" for line in suggestion["snippet"].splitlines())
    yield from _wrapped(f"why: {suggestion['arithmetic']}.", width, _INDENT, _INDENT)


def _sizes(sizes: list[Data], width: int) -> Iterator[str]:
    columns = [Column("measured peak", 1), Column("asked for", 2), Column("gpu_memory_gb to ask for", 0)]
    cells = [
        [
            "unknown" if each["peak_bytes"] is None else format_bytes(each["peak_bytes"]),
            "–" if each["asked_bytes"] is None else format_bytes(each["asked_bytes"]),
            "–" if each["suggested_gb"] is None else f"{each['suggested_gb']:g}",
        ]
        for each in sizes
    ]
    names = [str(each["stage"]) for each in sizes]
    heading, *rows = lay_out("GPU memory of a worker", names, columns, cells, width)
    yield heading
    yield "─" * min(width, max(map(len, (heading, *rows))))
    yield from rows
    for each in sizes:
        if each["peak_bytes"] is None:
            yield from _wrapped(f"{named(each['stage'])}: no peak was measured: {each['reason']}", width)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
