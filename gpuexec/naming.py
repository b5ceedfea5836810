"""How classes and lists of task ids are named in messages and files."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_SHOWN_IDS = 8


def full_name(cls: type) -> str:
    """Return a class's name with its module: ``"torch.OutOfMemoryError"``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def abbreviated(task_ids: Sequence[str]) -> str:
    """Return task ids as one line of text: the first eight, and how many more there are."""
    more = len(task_ids) - _MAX_SHOWN_IDS
    return ", ".join(task_ids[:_MAX_SHOWN_IDS]) + (f" and {more} more" if more > 0 else "")


def shortened(text: str, most: int) -> str:
    """Return a text, without its middle if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    begin, end = most * 3 // 4, most // 4
    return f"{text[:begin]} … ({len(text) - begin - end:,} characters left out) … {text[-end:]}"
