"""Arrows in a trace: from the slice that made a task to the slice that processed it, for a sample of tasks.

A task's id begins with that of the task it was made of, so the ids alone tell the way. A task whose parent is followed
is followed too, up to a few children at once and then now and then, as are the initial tasks. A flow of the trace event
format cannot fork, so every arrow is a flow of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.report.trace_levels import Track, stamp

_MOST_FOLLOWED = 4096  # tasks whose children may come; the oldest are forgotten
_AT_ONCE = 4  # children of a task that are followed without waiting
_PAUSE = 50_000.0  # microseconds between two others, of one stage
_DEEPEST = 4  # segments of an id that one stage may add


class _Place:
    """Where a task was processed: the slice, and how many children have been followed."""

    __slots__ = ("at", "children", "stage", "track")

    def __init__(self, stage: int, track: Track, at: float) -> None:
        self.stage = stage
        self.track = track
        self.at = at
        self.children = 0


class Flows:
    """Follows tasks through the stages of one run."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._next: dict[int, float] = {}  # by stage: from when on another one may be followed
        self._roots = 0
        self._arrows = 0

    def processed(self, task_ids: Sequence[str], stage: int, track: Track, began: float, ended: float) -> list[str]:
        """Return the arrows that end at a slice, as JSON. ``task_ids``: inputs of its batch.

        ``began``, ``ended``: microseconds of the slice on this track.
        """
        if stage == 0 and self._roots >= _AT_ONCE and began < self._next.get(0, 0.0):
            return []  # most often; the rest would come to the same
        lines: list[str] = []
        for task_id in task_ids:
            parent = self._parent(task_id, stage)
            if not self._is_followed(parent, stage, began):
                continue
            if parent is not None:
                lines += self._arrow(parent, track, began, ended)
            self._remember(task_id, _Place(stage, track, (began + ended) / 2))
        return lines

    def _parent(self, task_id: str, stage: int) -> _Place | None:
        prefix = task_id
        for _ in range(_DEEPEST):
            prefix = prefix.rpartition("_")[0]
            if not prefix:
                return None
            place = self._places.get(prefix)
            if place is not None:
                return place if place.stage < stage else None
        return None

    def _is_followed(self, parent: _Place | None, stage: int, now: float) -> bool:
        if parent is None:
            if stage > 0:
                return False
            self._roots += 1
            at_once = self._roots <= _AT_ONCE
        else:
            parent.children += 1
            at_once = parent.children <= _AT_ONCE
        if not at_once and now < self._next.get(stage, 0.0):
            return False
        self._next[stage] = now + _PAUSE
        return True

    def _arrow(self, parent: _Place, track: Track, began: float, ended: float) -> list[str]:
        self._arrows += 1
        head = min(began + 0.001, ended)
        parts = ((parent.track, parent.at, '"ph":"s"'), (track, max(head, parent.at), '"ph":"f","bp":"e"'))
        return [
            f'{{{kind},"cat":"task","name":"task","id":{self._arrows},"pid":{where[0]},"tid":{where[1]},{stamp(at)}}}'
            for where, at, kind in parts
        ]

    def _remember(self, task_id: str, place: _Place) -> None:
        if len(self._places) >= _MOST_FOLLOWED:
            del self._places[next(iter(self._places))]
        self._places[task_id] = place
