"""Rows of text in columns that fit a terminal of any width: names come first, the least important columns go first."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from gpuexec.records import Record

_GAP = "  "
_NAME_SHARE = 0.75  # of the width; a longer name is shortened in the middle
_ELLIPSIS = "…"
INDENT = "  "
_SPACE = re.compile(r"\s")  # line breaks among it


class Column(Record):
    """A column of figures. ``rank``: columns with a higher rank are left out first."""

    heading: str
    rank: int


def lay_out(
    heading: str, names: Sequence[str], columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> list[str]:
    """Return the heading's line and a line per row, each at most ``width`` wide.

    ``rows``: the cells beside each name, one per column. A name is shown whole where it takes at most three quarters of
    the width; otherwise its beginning and its end are.
    """
    names = [printable(name) for name in names]
    sizes = [max(map(cell_width, (column.heading, *(row[n] for row in rows)))) for n, column in enumerate(columns)]
    longest = max(map(cell_width, (heading, *names)))
    name_size = min(longest, max(1, int(width * _NAME_SHARE)))
    room = width - name_size
    shown = set()
    for n in sorted(range(len(columns)), key=lambda n: columns[n].rank):
        if sizes[n] + len(_GAP) > room:
            break
        shown.add(n)
        room -= sizes[n] + len(_GAP)
    name_size = min(longest, name_size + room)

    def line(name: str, cells: Sequence[str]) -> str:
        parts = [_pad_right(shortened(name, name_size), name_size)]
        parts += [_pad_left(cells[n], sizes[n]) for n in range(len(columns)) if n in shown]
        return _GAP.join(parts).rstrip()

    return [line(heading, [column.heading for column in columns]), *map(line, names, rows)]


def shortened(text: str, width: int) -> str:
    """Return the text without its middle if it is wider than ``width``."""
    if cell_width(text) <= width:
        return text
    if width <= 1:
        return _ELLIPSIS[:width]
    end = (width - 1) // 3
    return f"{_start(text, width - 1 - end)}{_ELLIPSIS}{_start(text[::-1], end)[::-1]}"


def cell_width(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def printable(text: str) -> str:
    """Return the text without what would move a terminal's cursor."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return the text in lines of at most ``width`` columns; all but the first are indented further."""
    text = printable(_SPACE.sub(" ", text))
    if cell_width(text) > len(text):  # some characters take two columns
        width //= 2
    return textwrap.wrap(text, max(width, len(indent) + 5), initial_indent=indent, subsequent_indent=indent + INDENT)


def _start(text: str, width: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += cell_width(char)
        if taken > width:
            return text[:at]
    return text


def _pad_right(text: str, width: int) -> str:
    return text + " " * (width - cell_width(text))


def _pad_left(text: str, width: int) -> str:
    return " " * (width - cell_width(text)) + text
