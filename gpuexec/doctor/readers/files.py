"""Small files of the kernel, as text and numbers; ``None`` where they are missing or not readable."""

from __future__ import annotations

import contextlib
from pathlib import Path


def text_of(path: Path) -> str | None:
    """Return what is in a file, without blanks around it."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return None


def number_of(path: Path) -> int | None:
    """Return the whole number in a file."""
    return whole(text_of(path))


def whole(text: str | None) -> int | None:
    """Return the whole number that a text is."""
    with contextlib.suppress(ValueError):
        return None if text is None else int(text)
    return None


def fields_of(path: Path, separator: str | None = ":") -> dict[str, str]:
    """Return the lines of a file as names and values."""
    pairs = (line.split(separator, 1) for line in (text_of(path) or "").splitlines())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def numbers_in_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a list as the kernel writes it: "0-3,8" is 0, 1, 2, 3 and 8.

    Raises ``ValueError`` for another text.
    """
    numbers: list[int] = []
    for part in text.split(","):
        if part.strip():
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)
