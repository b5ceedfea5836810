"""Compares what a page says that a command prints with what it has printed."""

from __future__ import annotations

import re

FRAMES = re.compile(r"[\u2500-\u257f]+")  # box-drawing characters, as long as the terminal is wide


def missing_lines(promised: str, printed: str) -> list[str]:
    """Return the lines of ``promised`` that no line of ``printed`` contains.

    Figures may differ, and so may white space and the frames of tables. A line with … is an excerpt: each of its parts
    must be in one line.
    """
    there = [alike(line) for line in printed.splitlines()]
    return [line for line in promised.splitlines() if not any(_is_in(line, candidate) for candidate in there)]


def _is_in(promised: str, printed: str) -> bool:
    parts = [alike(part) for part in promised.split("…")]
    begin = re.escape(parts[0])  # not the end of a longer number, such as 1_0 of 0_1_0
    return re.search(f"(?<![_#]){begin}", printed) is not None and all(part in printed for part in parts)


def alike(line: str) -> str:
    """Return a line with figures, frames and white space made equal."""
    line = re.sub(r"\d+(?:[.,]\d+)*", "#", FRAMES.sub(" ", line))
    return " ".join(line.split())
