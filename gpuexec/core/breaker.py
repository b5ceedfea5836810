"""Ends a run early, with one clear error, when a stage's workers fail again and again.

There are two counts: workers lost since the stage last completed a batch, and set-ups that failed since one last
succeeded. Neither may grow without end. Neither limit may end a run that the retry policy would bring through:

* A task takes at most ``max_attempts + ⌈log2(batch_size)⌉`` workers with it: the attempts of its batch, then one a
  level while the batch is bisected (without quarantine, nothing is bisected). With w workers, w such tasks can be in
  flight at once, and one more may follow them. So ``(w + 1)`` times that many losses prove nothing yet, and the run
  survives w + 1 poison tasks in a row in any order (two, with one worker and batches of one). A task that kills only
  sometimes takes no more. The w workers are replaced side by side, so the limit is reached about as soon with many
  workers as with few.
* With w workers, ``w · (max_attempts - 1)`` failed set-ups leave every worker an attempt. One more, and some worker
  must have spent its own.
"""

from __future__ import annotations

from enum import StrEnum

from gpuexec.core.retries import RetryPolicy
from gpuexec.records import Record


def max_losses(policy: RetryPolicy, *, batch_size: int, workers: int) -> int:
    """Return how many workers a stage may lose without completing a batch."""
    levels = (batch_size - 1).bit_length() if policy.quarantine else 0  # ⌈log2⌉
    return (workers + 1) * (policy.max_attempts + levels)


def max_failed_setups(policy: RetryPolicy, *, workers: int) -> int:
    """Return how many set-ups of a stage may fail in a row."""
    return workers * (policy.max_attempts - 1)


class FailedAt(StrEnum):
    """What a stage's workers fail at."""

    SETUP = "set-up"
    FIRST_BATCH = "the first batch"
    LATER_BATCH = "a later batch"


class BreakerTrip(Record):
    """Why the run ends: ``count`` workers in a row failed at ``failed_at``, the last one because of ``cause``."""

    stage: str
    failed_at: FailedAt
    count: int
    cause: str

    def __str__(self) -> str:
        workers = f"{self.count} workers in a row" if self.count > 1 else "a worker"
        match self.failed_at:
            case FailedAt.SETUP:
                what = f"stage {self.stage!r} cannot be set up: {workers} failed before or in setup()"
                advice = "Check what the stage loads, and whether memory and devices suffice for it."
            case FailedAt.FIRST_BATCH:
                what = f"stage {self.stage!r} cannot work: {workers} died, and none has ever completed a batch"
                advice = "The stage is probably at fault, not a task: run it alone on one task."
            case FailedAt.LATER_BATCH:
                what = f"stage {self.stage!r} no longer works: {workers} died, and no batch was completed in between"
                advice = "Either the node has lost something the stage needs, or many tasks in a row are at fault."
        return f"{what}. The last: {self.cause}\n  {advice}"


class Breaker:
    """The two counts of one stage.

    Completed batches are not reported to it; each loss comes with the number of tasks done. ``live`` is the number of
    the stage's workers, including the failed one and those that start. Workers that die together are reported one by
    one, so the limit follows the largest ``live`` since a count began.
    """

    __slots__ = ("_batch_size", "_done", "_failed_setups", "_losses", "_max_live", "_policy", "_stage")

    def __init__(self, stage: str, policy: RetryPolicy, batch_size: int) -> None:
        self._stage = stage
        self._policy = policy
        self._batch_size = batch_size
        self._done = 0
        self._losses = 0
        self._failed_setups = 0
        self._max_live = 0

    def worker_lost(self, *, done: int, live: int, cause: str) -> BreakerTrip | None:
        """Count a worker that was ready and ended unexpectedly, with or without a batch in flight.

        ``done``: the tasks that the stage has completed so far, without the quarantined ones.
        """
        if done != self._done:
            self._done, self._losses = done, 0
            self._begin_count()
        self._losses += 1
        self._max_live = max(self._max_live, live)
        if self._losses <= max_losses(self._policy, batch_size=self._batch_size, workers=self._max_live):
            return None
        failed_at = FailedAt.LATER_BATCH if done else FailedAt.FIRST_BATCH
        return BreakerTrip(self._stage, failed_at, self._losses, cause)

    def setup_failed(self, *, live: int, cause: str) -> BreakerTrip | None:
        """Count a worker that died before it was ready, or raised something that `judge_setup` retries."""
        self._failed_setups += 1
        self._max_live = max(self._max_live, live)
        if self._failed_setups <= max_failed_setups(self._policy, workers=self._max_live):
            return None
        return BreakerTrip(self._stage, FailedAt.SETUP, self._failed_setups, cause)

    def setup_done(self) -> None:
        """Note that a worker is ready."""
        self._failed_setups = 0
        self._begin_count()

    def _begin_count(self) -> None:
        if not self._losses and not self._failed_setups:
            self._max_live = 0
