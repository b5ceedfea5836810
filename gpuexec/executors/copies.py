"""Copies of stages and tasks, so that a run in this process leaves the caller's as they were."""

from __future__ import annotations

import copy
from typing import TypeVar

T = TypeVar("T")


def own_copy(value: T) -> T:
    """Return a copy that shares nothing with ``value``, or as little as can be copied.

    What holds a lock or an open file cannot be copied in depth. It can still be run here, where nothing is pickled:
    its attributes are then the caller's own objects, but those that the run sets or replaces are the copy's.
    """
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever an object raises, it cannot be copied in depth
        if isinstance(value, list):
            return type(value)(own_copy(each) for each in value)
    try:
        return copy.copy(value)
    except Exception:  # noqa: BLE001
        return value
