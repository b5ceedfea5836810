"""How much work is still to come, from what has passed so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passed:
    """A stage's tasks: ``done`` and the ``made`` that came of them; ``waiting`` in its queue and in workers' hands."""

    done: int
    made: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """``tasks``: how many one source task becomes here; ``remaining``: tasks still to do; ``None``: not known yet."""

    tasks: float | None
    remaining: float | None


def outlook(stages: Sequence[Passed], seeds_left: int | None) -> list[Outlook]:
    """Follow the tasks down the unfinished stages, each task becoming as many as the ones before it did.

    ``seeds_left``: tasks not yet in the first one's queue; ``None`` if nobody knows.
    """
    found = []
    tasks: float | None = 1.0
    coming = None if seeds_left is None else float(seeds_left)
    for stage in stages:
        remaining = None if coming is None else coming + stage.waiting
        found.append(Outlook(tasks, remaining))
        ratio = stage.made / stage.done if stage.done else None
        tasks = None if tasks is None or ratio is None else tasks * ratio
        coming = 0.0 if remaining == 0 else None if remaining is None or ratio is None else remaining * ratio
    return found
