"""What becomes of a batch that failed: a pure function of the policy, the failure, and the failures before it.

========================  =====================  ==================================================================
failure                   attempts left          attempts spent, or not retried
========================  =====================  ==================================================================
died, timed out           RETRY elsewhere        raise mode: RAISE; quarantine mode: SPLIT, a single task QUARANTINE
one of ``retire_on``      RETRY elsewhere        same as above
timed out, cancelled      RETRY                  same as above
one of ``retry_on``       RETRY                  same as above
any other exception       (never retried)        same as above, at the first failure
cannot be (un)pickled     (never retried)        same as above, whatever ``retry_on`` says: it would fail every time
========================  =====================  ==================================================================

A half of a batch whose attempts are spent has one attempt, so the search for the failing task takes one failure a
level. An exception that is not retried says nothing about the batch's other tasks, so after it the halves have as
many attempts left as the batch had.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from gpuexec.errors import BatchTimedOut, ConfigurationError, error_names_match
from gpuexec.naming import full_name
from gpuexec.records import Record

_TIMED_OUT = full_name(BatchTimedOut)
_MAX_DOUBLINGS = 5
_MIN_TO_JUDGE = 20  # quarantined tasks


class FailureKind(StrEnum):
    """How a batch, or a worker's set-up, failed."""

    DIED = "its worker died"
    TIMED_OUT = "it took too long and its worker was killed"
    CANCELLED = "it took too long and was cancelled"
    RAISED = "the stage raised"
    RETIRED = "the stage raised one of retire_on, so its worker was retired"
    NOT_PICKLABLE = "one of its tasks could not be pickled or unpickled"

    @property
    def takes_worker(self) -> bool:
        """Whether the worker is lost too."""
        return self in (FailureKind.DIED, FailureKind.TIMED_OUT, FailureKind.RETIRED)


class Failure(Record):
    """A failed attempt. ``error_names``: the exception's `errors.names_of`; empty if there was no exception."""

    kind: FailureKind
    text: str
    error_names: tuple[str, ...] = ()


class Action(StrEnum):
    """What the driver does about a failure."""

    RETRY = "retry"
    SPLIT = "split"
    QUARANTINE = "quarantine"
    RAISE = "raise"


class DecisionReason(StrEnum):
    """Why it does that."""

    ATTEMPTS_LEFT = "it has attempts left"
    ATTEMPTS_SPENT = "its attempts are spent"
    NOT_RETRIED = "its exception is not one of retry_on"
    NOT_PICKLABLE = "pickling it again would fail again"
    CANNOT_SET_UP = "a stage that cannot be set up cannot work"
    ENDED_PROCESS = "the stage tried to end its process"
    BREAKER = "too many workers in a row failed"
    IN_LATER_STAGE = "it failed in a later stage of its group, which is given its tasks separately"


class Verdict(Record):
    """An action with its reason. ``inherited``: the number of failures each half of a SPLIT begins with."""

    action: Action
    reason: DecisionReason
    inherited: int = 0

    def __str__(self) -> str:
        return f"{self.action.value}: {self.reason.value}"


class RetryPolicy(Record):
    """What is retried, and what happens when the attempts are spent.

    ``max_attempts``: of one batch, the first included. ``quarantine``: give up the failing task and go on, instead of
    ending the run. ``retry_on``, ``retire_on``: names of exception classes after which a batch is retried; after one
    of ``retire_on`` in another process. A name is given in full (``"torch.AcceleratorError"``) or without its module,
    and stands for subclasses too. ``retry_delay_s``: seconds before the second attempt. ``max_quarantined``: tasks that
    a stage may lose, or below 1 a fraction of those that it has tried; ``None`` for any number. Raises
    ``ConfigurationError``.
    """

    max_attempts: int = 3
    quarantine: bool = False
    retry_on: tuple[str, ...] = ()
    retire_on: tuple[str, ...] = ()
    retry_delay_s: float = 0.0
    max_quarantined: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts must be at least 1 (the first attempt), got {self.max_attempts}")
        for option, names in (("retry_on", self.retry_on), ("retire_on", self.retire_on)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
                raise ConfigurationError(f"{option} must be a tuple of exception class names, got {names!r}")

    def kind_of(self, error_names: Sequence[str]) -> FailureKind:
        """Return RETIRED if the exception is one of ``retire_on``, CANCELLED for `BatchTimedOut`, else RAISED."""
        if error_names and error_names[0] == _TIMED_OUT:
            return FailureKind.CANCELLED
        return FailureKind.RETIRED if error_names_match(error_names, self.retire_on) else FailureKind.RAISED

    def retries(self, failure: Failure) -> bool:
        """Return whether another attempt may succeed."""
        raised_again = failure.kind is FailureKind.RAISED and error_names_match(failure.error_names, self.retry_on)
        return failure.kind.takes_worker or failure.kind is FailureKind.CANCELLED or raised_again

    def delay_s(self, failures: int, seed: int) -> float:
        """Return the seconds before the next attempt at a batch that has failed ``failures`` times.

        They double with every failure, up to 32 times the first delay. Up to a quarter is added, by ``seed``, so that
        batches that failed together are not tried again together.
        """
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        spread = (seed * 0x9E3779B1 + failures * 0x85EBCA6B & 0xFFFF) / 0x10000
        return self.retry_delay_s * 2.0**doublings * (1 + spread / 4)

    def allows_quarantined(self, quarantined: int, done: int) -> bool:
        """Return whether a stage with ``done`` finished tasks may go on without ``quarantined`` others.

        A fraction is judged once there are 20 of those: a few bad tasks at the beginning say nothing about the rest.
        """
        limit = self.max_quarantined
        if limit is None:
            return True
        if limit == 0 or limit >= 1:
            return quarantined <= limit
        return quarantined < _MIN_TO_JUDGE or quarantined <= limit * (quarantined + done)


def judge(policy: RetryPolicy, *, tasks: int, failures: int, failure: Failure) -> Verdict:
    """Return the verdict on a batch of ``tasks`` tasks that has failed ``failures`` times, this failure included."""
    if policy.retries(failure):
        if failures < policy.max_attempts:
            return Verdict(Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
        return _give_up(policy, tasks, DecisionReason.ATTEMPTS_SPENT, policy.max_attempts - 1)
    reason = DecisionReason.NOT_PICKLABLE if failure.kind is FailureKind.NOT_PICKLABLE else DecisionReason.NOT_RETRIED
    return _give_up(policy, tasks, reason, failures - 1)


def _give_up(policy: RetryPolicy, tasks: int, reason: DecisionReason, inherited: int) -> Verdict:
    if not policy.quarantine:
        return Verdict(Action.RAISE, reason)
    return Verdict(Action.SPLIT, reason, inherited) if tasks > 1 else Verdict(Action.QUARANTINE, reason)


def judge_setup(policy: RetryPolicy, failure: Failure) -> Verdict:
    """Return the verdict on a failed import or set-up: RETRY with another worker (until the `Breaker` trips) or RAISE.

    Quarantine is for tasks, so it makes no difference here.
    """
    if policy.retries(failure):
        return Verdict(Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
    return Verdict(Action.RAISE, DecisionReason.CANNOT_SET_UP)
