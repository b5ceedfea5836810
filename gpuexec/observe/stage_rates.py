"""Tasks per second of a stage, measured between the moments at which its count has changed.

A stage that finishes a batch every ten seconds has no rate in most intervals of five. So the window ends at the last
change and is wide enough for several of them; only when a change is overdue does the time since the last one count.
"""

from __future__ import annotations

from collections import deque

_MIN_CHANGES = 4  # in the window, which is wider where changes are rarer
_OVERDUE = 2.0  # times the mean interval between changes


class StageRate:
    """The rate of one stage over the last ``window_s`` seconds. Times are of the monotonic clock, in seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._changes: deque[tuple[float, int]] = deque()

    def update(self, at: float, done: int, *, works: bool) -> float | None:
        """Add a reading and return tasks per second, ``None`` before the first task is done.

        ``done``: tasks done so far. ``works``: whether the stage has a worker that is ready; the time before it has one
        is not counted.
        """
        changes = self._changes
        if not changes or (len(changes) == 1 and done == changes[0][1] and not works):
            changes.clear()
            changes.append((at, done))
        elif done != changes[-1][1]:
            changes.append((at, done))
        while len(changes) > _MIN_CHANGES + 1 and changes[-1][0] - changes[1][0] >= self._window_s:
            changes.popleft()
        return self._rate(at)

    def _rate(self, at: float) -> float | None:
        (first_at, first), (last_at, last) = self._changes[0], self._changes[-1]
        if last_at <= first_at:
            return None
        interval = (last_at - first_at) / (len(self._changes) - 1)
        until = at if at - last_at > _OVERDUE * interval else last_at
        return (last - first) / (until - first_at)
