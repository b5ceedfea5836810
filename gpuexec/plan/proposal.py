"""What rebalancing sees of a stage, and what it may propose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpuexec.plan.balance import StageLoad
from gpuexec.plan.model import WorkerGrant
from gpuexec.plan.request import Request


class Reason(StrEnum):
    """Why a worker is started or stopped, or why nothing is done."""

    EMPTY = "the stage has no worker"
    SLOWEST = "the stage holds the pipeline back and there is room"
    MAKES_ROOM = "its share is worth more to a slower stage"
    MOVES = "a slower stage needs this place and it can be elsewhere"
    BALANCED = "every stage has the workers it should have"
    NO_ROOM = "no stop would make room for a slower stage"
    TOO_SOON = "the last change has not shown its effect yet"
    NOT_WORTH_IT = "the gain would not pay for the set-ups"


@dataclass(frozen=True, slots=True)
class Start:
    """Start this worker; there is room for it now."""

    grant: WorkerGrant
    reason: Reason


@dataclass(frozen=True, slots=True)
class Stop:
    """Let this worker finish what it holds and end."""

    stage_index: int
    worker_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to do now, the stops first; without actions ``reason`` says why. ``gain_s``: time it should save."""

    actions: tuple[Stop | Start, ...]
    reason: Reason
    gain_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """A running stage. ``grants``: its living workers, starting ones included, stopping ones not; oldest first.

    ``seconds`` and ``tasks``: see ``StageLoad``. ``remaining``: tasks still to do, ``None`` if nobody knows: then
    only those ``waiting`` (queued and in hand) are counted on. ``startup_s``: from spawn to ready.
    """

    request: Request
    grants: tuple[WorkerGrant, ...]
    seconds: float | None
    startup_s: float | None
    waiting: int
    remaining: float | None
    tasks: float | None = 1.0
    most: int | None = None

    @property
    def load(self) -> StageLoad:
        """What `balance` wants to know of it."""
        return StageLoad(self.request, len(self.grants), self.seconds, self.tasks, self.most)

    @property
    def work_left_s(self) -> float:
        """Worker seconds that are still to be done, as far as is known."""
        return (self.seconds or 0.0) * (self.waiting if self.remaining is None else self.remaining)
