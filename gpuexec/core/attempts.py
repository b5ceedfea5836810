"""State machine of a batch that has failed at least once. Others have none, so the common path costs nothing.

::

    ┌─────── retried ─────────┐
    ▼                         │
 WAITING ─sent─► IN_FLIGHT ─failed─► FAILED ─split─► SPLIT (into two halves, both WAITING)
    ▲               │ │                 │
    └──── lost ─────┘ └─completed─┐     ├─quarantined─► QUARANTINED
  (its worker ended through       ▼     └─raised──────► ENDED_RUN
   no fault of the batch)        DONE
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from gpuexec.core.machine import Machine
from gpuexec.core.retries import Action, DecisionReason, Failure, RetryPolicy, Verdict, judge
from gpuexec.records import Record

T = TypeVar("T")


class AttemptState(StrEnum):
    """Where the batch is."""

    WAITING = "waiting"
    IN_FLIGHT = "in flight"
    FAILED = "failed"
    DONE = "done"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    ENDED_RUN = "ended the run"


class AttemptEvent(StrEnum):
    """What happens to the batch."""

    SENT = "sent"
    COMPLETED = "completed"
    PASSED_ON = "passed on to the stage it failed in"
    LOST = "lost with its worker"
    FAILED = "failed"
    RETRIED = "retried"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    RAISED = "ended the run"


_S, _E = AttemptState, AttemptEvent

TRANSITIONS: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (_S.WAITING, _E.SENT): _S.IN_FLIGHT,
    (_S.IN_FLIGHT, _E.COMPLETED): _S.DONE,
    (_S.IN_FLIGHT, _E.PASSED_ON): _S.WAITING,
    (_S.IN_FLIGHT, _E.LOST): _S.WAITING,
    (_S.IN_FLIGHT, _E.FAILED): _S.FAILED,
    (_S.FAILED, _E.RETRIED): _S.WAITING,
    (_S.FAILED, _E.SPLIT): _S.SPLIT,
    (_S.FAILED, _E.QUARANTINED): _S.QUARANTINED,
    (_S.FAILED, _E.RAISED): _S.ENDED_RUN,
}

_EVENT_OF_ACTION = {
    Action.RETRY: _E.RETRIED,
    Action.SPLIT: _E.SPLIT,
    Action.QUARANTINE: _E.QUARANTINED,
    Action.RAISE: _E.RAISED,
}


class Attempt(Record):
    """A failed attempt, and the worker it failed at."""

    worker_id: str
    failure: Failure


class BatchLifecycle:
    """A batch's state and its failed attempts; made when it fails for the first time.

    ``failures`` count against ``max_attempts``. ``history`` also holds the attempts of the batch that this is a half
    of.
    """

    __slots__ = ("_inherited", "_machine", "failures", "history")

    def __init__(self, name: str, state: AttemptState = AttemptState.IN_FLIGHT) -> None:
        self._machine = Machine(name, TRANSITIONS, state)
        self.failures = 0
        self.history: tuple[Attempt, ...] = ()
        self._inherited = 0

    @property
    def state(self) -> AttemptState:
        """Where the batch is."""
        return self._machine.state

    @property
    def name(self) -> str:
        """What to call the batch in messages."""
        return self._machine.name

    def advance(self, event: AttemptEvent) -> None:
        """Take one step of the table. Raises ``InternalError`` for a step it does not have."""
        self._machine.advance(event)

    def fail(
        self, policy: RetryPolicy, *, tasks: int, worker_id: str, failure: Failure, in_later_stage: bool = False
    ) -> Verdict:
        """Record a failed attempt at ``tasks`` tasks, take the step that follows, and return the verdict.

        ``in_later_stage``: it failed in a later stage of its group than the one it was sent to. It is not given up or
        split then: it is run again as far as that stage, which judges what arrives there.
        """
        self.advance(AttemptEvent.FAILED)
        self.failures += 1
        self.history += (Attempt(worker_id, failure),)
        verdict = judge(policy, tasks=tasks, failures=self.failures, failure=failure)
        if in_later_stage and verdict.action in (Action.SPLIT, Action.QUARANTINE):
            verdict = Verdict(Action.RETRY, DecisionReason.IN_LATER_STAGE)
        self._inherited = verdict.inherited
        self.advance(_EVENT_OF_ACTION[verdict.action])
        return verdict

    def halves(self) -> tuple[BatchLifecycle, BatchLifecycle]:
        """Return the lifecycles of the two halves of a split batch, both waiting."""
        if self.state is not AttemptState.SPLIT:
            raise self._machine.impossible("halves()")
        return self._half(1), self._half(2)

    def of_task(self) -> BatchLifecycle:
        """Return the lifecycle of one of its tasks, which failed in flight while the batch went on without it."""
        task = BatchLifecycle(self.name)
        task.failures, task.history = self.failures, self.history
        task._machine.continue_story(self._machine)
        return task

    def _half(self, number: int) -> BatchLifecycle:
        half = BatchLifecycle(f"{self.name}.{number}", AttemptState.WAITING)
        half.failures = self._inherited
        half.history = self.history
        half._machine.continue_story(self._machine)
        return half


def halve(tasks: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Return the first and the second half, in order; the first has the odd one."""
    middle = (len(tasks) + 1) // 2
    return tasks[:middle], tasks[middle:]
