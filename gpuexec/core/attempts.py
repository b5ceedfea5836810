"""The life of a batch that has failed. One that never did has none, so the usual way costs nothing.

    ┌──────── retried ────────┐
    ▼                         │
 WAITING ──sent──► IN_HAND ──failed──► FAILED ──split──► SPLIT (into two lives, WAITING)
    ▲                 │  │                │
    └───── lost ──────┘  └─completed─┐    ├──quarantined──► QUARANTINED
(with its worker, not                ▼    └──ended the run──► ENDED_RUN
 its fault: no attempt)             DONE
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from gpuexec.core.retries import Action, Failure, RetryPolicy, Verdict, judge
from gpuexec.errors import InternalError

T = TypeVar("T")


class AttemptState(StrEnum):
    """Where a batch is."""

    WAITING = "waiting"
    IN_HAND = "in hand"
    FAILED = "failed"
    DONE = "done"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    ENDED_RUN = "ended the run"


class AttemptEvent(StrEnum):
    """What happened to it."""

    SENT = "sent"
    COMPLETED = "completed"
    LOST = "lost with its worker"
    FAILED = "failed"
    RETRIED = "retried"
    SPLIT = "split"
    QUARANTINED = "quarantined"
    RAISED = "ended the run"


_S, _E = AttemptState, AttemptEvent

TRANSITIONS: dict[tuple[AttemptState, AttemptEvent], AttemptState] = {
    (_S.WAITING, _E.SENT): _S.IN_HAND,
    (_S.IN_HAND, _E.COMPLETED): _S.DONE,
    (_S.IN_HAND, _E.LOST): _S.WAITING,
    (_S.IN_HAND, _E.FAILED): _S.FAILED,
    (_S.FAILED, _E.RETRIED): _S.WAITING,
    (_S.FAILED, _E.SPLIT): _S.SPLIT,
    (_S.FAILED, _E.QUARANTINED): _S.QUARANTINED,
    (_S.FAILED, _E.RAISED): _S.ENDED_RUN,
}

_EVENT_OF_STEP = {
    Action.RETRY: _E.RETRIED,
    Action.SPLIT: _E.SPLIT,
    Action.QUARANTINE: _E.QUARANTINED,
    Action.RAISE: _E.RAISED,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed, and at which worker."""

    worker_id: str
    failure: Failure


class BatchLifecycle:
    """A batch's state, its failed attempts and how it came there; made when it fails for the first time.

    ``failures`` count against ``max_attempts``; ``history`` also holds what a half's batch went through.
    """

    __slots__ = ("_inherited", "_story", "failures", "history", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = AttemptState.IN_HAND
        self.failures = 0
        self.history: tuple[Attempt, ...] = ()
        self._inherited = 0
        self._story: list[str] = [self.state.value]

    def advance(self, event: AttemptEvent) -> AttemptState:
        """Take one step of the table. Raises ``InternalError`` for a step it does not have."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise self._impossible(event.value)
        self._story.append(following.value)
        self.state = following
        return following

    def fail(self, policy: RetryPolicy, *, tasks: int, worker_id: str, failure: Failure) -> Verdict:
        """Note a failed attempt at the batch's ``tasks`` tasks, take the step that follows and return it."""
        self.advance(AttemptEvent.FAILED)
        self.failures += 1
        self.history += (Attempt(worker_id, failure),)
        verdict = judge(policy, tasks=tasks, failures=self.failures, failure=failure)
        self._inherited = verdict.inherited
        self.advance(_EVENT_OF_STEP[verdict.step])
        return verdict

    def halves(self) -> tuple[BatchLifecycle, BatchLifecycle]:
        """The lives of the two halves of a batch that was split, both waiting."""
        if self.state is not AttemptState.SPLIT:
            raise self._impossible("halves()")
        return self._half(1), self._half(2)

    def _half(self, number: int) -> BatchLifecycle:
        half = BatchLifecycle(f"{self.name}.{number}")
        half.state = AttemptState.WAITING
        half.failures = self._inherited
        half.history = self.history
        half._story = [*self._story, half.state.value]
        return half

    def _impossible(self, what: str) -> InternalError:
        return InternalError(
            f"{self.name} is {self.state.value}: {what!r} cannot happen now (its story: {' → '.join(self._story)})"
        )


def halve(tasks: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """The first and second half of a batch's tasks, in order; the first has the odd one."""
    middle = (len(tasks) + 1) // 2
    return tasks[:middle], tasks[middle:]
