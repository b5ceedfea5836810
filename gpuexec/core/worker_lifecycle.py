"""The life of a worker process, as the driver sees it.

SPAWNED ─booted─► LOADED ─setup_sent─► SETTING_UP ─setup_done─► READY
   │                 │                      │                     │
   ├─────────────────┴──── stage_raised ────┴─────────────────────┤
   ▼                            ▼                                 ▼
(stop_sent) ────────────►   FAILED ── stop_sent ──►  STOPPING ◄── stop_sent
from any state but GONE: exited ──► GONE
"""

from __future__ import annotations

from enum import StrEnum

from gpuexec.errors import InternalError


class WorkerState(StrEnum):
    """Where a worker is."""

    SPAWNED = "spawned"
    LOADED = "loaded"
    SETTING_UP = "setting up"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"
    GONE = "gone"


class WorkerEvent(StrEnum):
    """What happened to it."""

    BOOTED = "booted"
    SETUP_SENT = "setup sent"
    SETUP_DONE = "setup done"
    STAGE_RAISED = "stage raised"
    STOP_SENT = "stop sent"
    EXITED = "exited"


_S, _E = WorkerState, WorkerEvent

TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (_S.SPAWNED, _E.BOOTED): _S.LOADED,
    (_S.LOADED, _E.SETUP_SENT): _S.SETTING_UP,
    (_S.SETTING_UP, _E.SETUP_DONE): _S.READY,
    (_S.STOPPING, _E.BOOTED): _S.STOPPING,  # told to stop before it was up, or while it set up
    (_S.STOPPING, _E.SETUP_DONE): _S.STOPPING,
    (_S.STOPPING, _E.STAGE_RAISED): _S.STOPPING,  # its teardown
    **{(s, _E.STAGE_RAISED): _S.FAILED for s in (_S.SPAWNED, _S.LOADED, _S.SETTING_UP, _S.READY)},
    **{(s, _E.STOP_SENT): _S.STOPPING for s in (_S.SPAWNED, _S.LOADED, _S.SETTING_UP, _S.READY, _S.FAILED)},
    **{(s, _E.EXITED): _S.GONE for s in _S if s is not _S.GONE},
}


class WorkerLifecycle:
    """One worker's state and how it came there."""

    __slots__ = ("_story", "state", "worker_id")

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.state = WorkerState.SPAWNED
        self._story: list[str] = [self.state.value]

    def advance(self, event: WorkerEvent) -> WorkerState:
        """Take one step of the table. Raises ``InternalError`` for a step it does not have."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise InternalError(
                f"worker {self.worker_id!r} is {self.state.value}: {event.value!r} cannot happen now "
                f"(its story: {' → '.join(self._story)})"
            )
        if following is not self.state:
            self._story.append(following.value)
        self.state = following
        return following
