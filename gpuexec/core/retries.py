"""What is to become of a batch that failed: a pure function of the policy, the failure and those before it.

                      attempts left        attempts spent
    died, timed out   RETRY elsewhere      raise mode: RAISE;  quarantine mode: SPLIT, a single task QUARANTINE
    in retire_on      RETRY elsewhere      likewise
    in retry_on       RETRY                likewise
    raised            raise mode: RAISE;   quarantine mode: SPLIT at once, a single task QUARANTINE
    cannot travel     as raised, whatever ``retry_on`` says: it is the same every time

A half of a batch whose attempts are spent has one attempt: the search for the task at fault takes one
failure a level. An exception that is not retried says nothing of the batch's other tasks, so after it the
halves have as many attempts left as the batch had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpuexec.errors import ConfigurationError, error_names_match


class FailureKind(StrEnum):
    """How a batch, or a worker's set-up, failed."""

    DIED = "its worker died"
    TIMED_OUT = "it took too long and its worker was killed"
    RAISED = "the stage raised"
    RETIRED = "the stage raised one of retire_on, so its worker was retired"
    UNRETURNABLE = "a task of it could not be pickled or unpickled"

    @property
    def takes_worker(self) -> bool:
        """Whether a worker is gone with it."""
        return self in (FailureKind.DIED, FailureKind.TIMED_OUT, FailureKind.RETIRED)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. ``error_names``: the exception's `errors.names_of`, empty where there was none."""

    kind: FailureKind
    text: str
    error_names: tuple[str, ...] = ()


class Action(StrEnum):
    """What the driver does now."""

    RETRY = "retry"
    SPLIT = "split"
    QUARANTINE = "quarantine"
    RAISE = "raise"


class DecisionReason(StrEnum):
    """Why it does that."""

    ATTEMPTS_LEFT = "it has attempts left"
    ATTEMPTS_SPENT = "its attempts are spent"
    NOT_RETRIED = "its exception is not one of retry_on"
    CANNOT_TRAVEL = "pickling it again would fail again"
    CANNOT_SET_UP = "a stage that cannot set up cannot work"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A step with its reason. ``inherited``: the failures that each half begins with, if it is a SPLIT."""

    step: Action
    why: DecisionReason
    inherited: int = 0

    def __str__(self) -> str:
        return f"{self.step.value}: {self.why.value}"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What may be tried again, and what is done when that is spent.

    ``max_attempts``: of one batch, the first included. ``quarantine``: put the task at fault aside and go
    on, instead of ending the run. ``retry_on``, ``retire_on``: classes of the stage's exceptions after which
    a batch is tried again, with ``retire_on`` in another process: ``"torch.AcceleratorError"``, or without
    its module; subclasses count. Raises ``ConfigurationError``.
    """

    max_attempts: int = 3
    quarantine: bool = False
    retry_on: tuple[str, ...] = ()
    retire_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts must be at least 1 (the first attempt), got {self.max_attempts}")
        for option, names in (("retry_on", self.retry_on), ("retire_on", self.retire_on)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
                raise ConfigurationError(f"{option} must be a tuple of exceptions' class names, got {names!r}")

    def kind_of(self, error_names: Sequence[str]) -> FailureKind:
        """RETIRED if the exception is one of ``retire_on``, else RAISED."""
        return FailureKind.RETIRED if error_names_match(error_names, self.retire_on) else FailureKind.RAISED

    def retries(self, failure: Failure) -> bool:
        """Whether another attempt could end otherwise."""
        raised_again = failure.kind is FailureKind.RAISED and error_names_match(failure.error_names, self.retry_on)
        return failure.kind.takes_worker or raised_again


def judge(policy: RetryPolicy, *, tasks: int, failures: int, failure: Failure) -> Verdict:
    """Decide on a batch of ``tasks`` tasks that failed ``failures`` times, this failure included."""
    if policy.retries(failure):
        if failures < policy.max_attempts:
            return Verdict(Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
        return _give_up(policy, tasks, DecisionReason.ATTEMPTS_SPENT, policy.max_attempts - 1)
    why = DecisionReason.CANNOT_TRAVEL if failure.kind is FailureKind.UNRETURNABLE else DecisionReason.NOT_RETRIED
    return _give_up(policy, tasks, why, failures - 1)


def _give_up(policy: RetryPolicy, tasks: int, why: DecisionReason, inherited: int) -> Verdict:
    if not policy.quarantine:
        return Verdict(Action.RAISE, why)
    return Verdict(Action.SPLIT, why, inherited) if tasks > 1 else Verdict(Action.QUARANTINE, why)


def judge_setup(policy: RetryPolicy, failure: Failure) -> Verdict:
    """Decide on a failed import or set-up: RETRY with another worker (until the `Breaker` trips) or RAISE.

    Quarantine is for tasks, so it makes no difference here.
    """
    if policy.retries(failure):
        return Verdict(Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
    return Verdict(Action.RAISE, DecisionReason.CANNOT_SET_UP)
