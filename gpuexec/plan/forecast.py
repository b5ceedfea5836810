"""How much work is still to come, from what has passed so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A stage's tasks: ``done`` and the ``made`` that came of them; ``waiting`` in its queue and in workers' hands."""

    done: int
    made: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """``tasks``: how many one source task becomes here; ``remaining``: tasks still to do; ``None``: not known yet."""

    tasks: float | None
    remaining: float | None


def forecast(stages: Sequence[StageProgress], tasks_left: int | None) -> list[Forecast]:
    """Follow the tasks down the unfinished stages, each task becoming as many as the ones before it did.

    ``tasks_left``: tasks not yet in the first one's queue; ``None`` if nobody knows.
    """
    found = []
    tasks: float | None = 1.0
    coming = None if tasks_left is None else float(tasks_left)
    for stage in stages:
        remaining = None if coming is None else coming + stage.waiting
        found.append(Forecast(tasks, remaining))
        ratio = stage.made / stage.done if stage.done else None
        tasks = None if tasks is None or ratio is None else tasks * ratio
        coming = 0.0 if remaining == 0 else None if remaining is None or ratio is None else remaining * ratio
    return found
