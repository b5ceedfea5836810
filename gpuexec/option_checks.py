"""What the values of options may be. A check returns what is wrong with a value, or ``None``."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

_LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")  # loguru's, in any worker

Check = Callable[[Any], str | None]  # returns what is wrong with a value, or None


def at_least(low: float) -> Check:
    """Return a check for numbers from ``low`` up."""

    def check(value: Any) -> str | None:
        return None if math.isfinite(value) and value >= low else f"must be a finite number >= {low:g}"

    return check


def above(low: float) -> Check:
    """Return a check for numbers above ``low``."""

    def check(value: Any) -> str | None:
        return None if math.isfinite(value) and value > low else f"must be a finite number > {low:g}"

    return check


def fraction(value: Any) -> str | None:
    """Check a number between 0 and 1."""
    return None if 0 <= value <= 1 else "must lie between 0 and 1"


def port(value: Any) -> str | None:
    """Check the number of a TCP port, 0 for any that is free."""
    return None if 0 <= value <= 65535 else "must be a port from 1 to 65535, or 0 for any that is free"


def one_of(policy: type[StrEnum]) -> Check:
    """Return a check for the values of a policy."""
    choices = [member.value for member in policy]

    def check(value: Any) -> str | None:
        return None if value in choices else f"must be one of {', '.join(map(repr, choices))}"

    return check


def folder(otherwise: str) -> Check:
    """Return a check for the name of a folder; ``otherwise`` says how to have none."""

    def check(value: Any) -> str | None:
        return None if value.strip() else f"must name a folder ({otherwise})"

    return check


def folder_or_nothing(value: Any) -> str | None:
    """Check the name of a folder, or an empty text for none."""
    return None if not value or value.strip() else "must name a folder"


def folder_or_auto(value: Any) -> str | None:
    """Check the name of a folder, or "auto"."""
    return None if value.strip() else "must name a folder, or be 'auto' (None writes nothing)"


def shard(value: Any) -> str | None:
    """Check the name of a shard. What is wrong with its numbers, or with the environment, the run says."""
    if re.fullmatch(r"auto(/[1-9][0-9]*)?|[0-9]+/[1-9][0-9]*", value):
        index, _, count = value.partition("/")
        if index == "auto" or int(index) < int(count):
            return None
        return f"must be below {count}/{count}: shards are counted from 0, so the last is {int(count) - 1}/{count}"
    return "must be K/N with K from 0 to N-1, such as '0/8' for the first of 8, or 'auto', or 'auto/N'"


def log_level(value: Any) -> str | None:
    """Check the name of one of loguru's levels."""
    if value.upper() in _LOG_LEVELS:
        return None
    closest = difflib.get_close_matches(value.upper(), _LOG_LEVELS, n=1, cutoff=0.5)
    return f"must be one of {', '.join(_LOG_LEVELS)}" + (f"; did you mean {closest[0]!r}?" if closest else "")
