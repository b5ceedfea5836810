"""A worker: the state machine of its process, the reason of its end, and what its exit means.

::

  SPAWNED ─booted─► LOADED ─setup sent─► SETTING_UP ─setup done─► READY ◄── takes batches only here
     │                 │                      │                     │
     ├─────────────────┴───────── drain ──────┴─────────────────────┤──► DRAINING   no new batches; stopped when idle
     ├──────────────────────── timed out ─────┬─────────────────────┤──► HUNG       writes its stacks, then is stopped
     └─────────────────────── stage raised ───┴─────────────────────┘──► FAILED     waits to be told to stop
  from any of these:   stop sent ──► STOPPING      it finishes what it has, tears down and exits
  from any but GONE:   kill sent ──► KILLED        SIGKILL is on its way
                       exited    ──► GONE          reaped

Invariants
1. A worker gets batches only while it is READY.
2. The step that leads towards the end records an `EndReason`. A later step may record another, which then counts.
3. What the exit of a process means is in `EXIT_RULES`, by that reason. An exit without a reason is unexpected, and so
   is the exit of a DRAINING worker, which was not told to stop yet. After `Stopped`, every exit is as expected, if it
   comes in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from gpuexec.contract.phases import StagePhase
from gpuexec.core.batch import Batch, Block
from gpuexec.core.machine import Machine
from gpuexec.records import MutableRecord, Record

if TYPE_CHECKING:
    from gpuexec.core.stage import StageState
    from gpuexec.core.termination import Termination
    from gpuexec.planning.model import WorkerGrant


class WorkerState(StrEnum):
    """Where a worker is between spawn and reap."""

    SPAWNED = "spawned"
    LOADED = "loaded"
    SETTING_UP = "setting up"
    READY = "ready"
    DRAINING = "draining"
    HUNG = "hung"
    FAILED = "failed"
    STOPPING = "stopping"
    KILLED = "killed"
    GONE = "gone"


class WorkerEvent(StrEnum):
    """What happens to a worker."""

    BOOTED = "booted"
    SETUP_SENT = "setup sent"
    SETUP_DONE = "setup done"
    STAGE_RAISED = "stage raised"
    DRAIN = "drain"
    TIMED_OUT = "timed out"
    STOP_SENT = "stop sent"
    KILL_SENT = "kill sent"
    EXITED = "exited"


class EndReason(StrEnum):
    """Why a worker leaves."""

    STAGE_DONE = "its stage has no work left"
    NODE_READY = "setup_on_node() is done"
    RECYCLED = "it has done its share or holds too much memory"
    SURPLUS = "the autoscaler stopped it"
    STAGE_RAISED = "its stage raised"
    TIMED_OUT = "it took too long"
    CORDONED = "its GPU failed"
    TEMPLATE_LOST = "its template ended"
    RUN_ENDED = "the run ends"


_S, _E = WorkerState, WorkerEvent
STARTING = frozenset({_S.SPAWNED, _S.LOADED, _S.SETTING_UP})
WORKING = STARTING | {_S.READY, _S.DRAINING, _S.HUNG}
"""States from which a stage's exception is a failure of the stage, and a Stop has not been sent."""

TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (_S.SPAWNED, _E.BOOTED): _S.LOADED,
    (_S.LOADED, _E.SETUP_SENT): _S.SETTING_UP,
    (_S.SETTING_UP, _E.SETUP_DONE): _S.READY,
    **{(s, _E.DRAIN): _S.DRAINING for s in (*STARTING, _S.READY, _S.DRAINING)},
    **{(s, _E.TIMED_OUT): _S.HUNG for s in (*STARTING, _S.READY, _S.DRAINING)},
    **{(s, _E.STAGE_RAISED): _S.FAILED for s in WORKING},
    **{(s, _E.STOP_SENT): _S.STOPPING for s in (*WORKING, _S.FAILED)},
    # A worker on its way to the end goes on reporting what it does.
    **{
        (s, e): s for s in (_S.DRAINING, _S.HUNG, _S.FAILED, _S.STOPPING, _S.KILLED) for e in (_E.BOOTED, _E.SETUP_DONE)
    },
    **{(s, _E.STAGE_RAISED): s for s in (_S.FAILED, _S.STOPPING, _S.KILLED)},
    **{(s, _E.KILL_SENT): _S.KILLED for s in _S if s is not _S.GONE},
    **{(s, _E.EXITED): _S.GONE for s in _S if s is not _S.GONE},
}


class ExitReport(StrEnum):
    """How an exit is reported to the user."""

    NOTHING = "nothing"
    NOTICE = "a notice, unless the worker reported Stopped"
    WORKER_DIED = "WorkerDied, which is judged by the retry policy"


class ExitRule(Record):
    """What follows from an exit.

    ``requeues``: the worker's batches go to other workers; with ``WORKER_DIED``, the one it was processing has failed.
    ``replaced``: its grant is used again, unless it was withdrawn.
    """

    report: ExitReport
    requeues: bool = False
    replaced: bool = False


UNEXPECTED = ExitRule(ExitReport.WORKER_DIED, requeues=True, replaced=True)

EXIT_RULES: dict[EndReason | None, ExitRule] = {
    None: UNEXPECTED,
    EndReason.TIMED_OUT: UNEXPECTED,
    EndReason.STAGE_RAISED: ExitRule(ExitReport.NOTICE, replaced=True),  # its batches were requeued when it raised
    EndReason.RECYCLED: ExitRule(ExitReport.NOTICE, replaced=True),
    EndReason.SURPLUS: ExitRule(ExitReport.NOTICE),
    EndReason.STAGE_DONE: ExitRule(ExitReport.NOTICE),
    EndReason.NODE_READY: ExitRule(ExitReport.NOTICE),
    EndReason.CORDONED: ExitRule(ExitReport.NOTHING, requeues=True),  # the GPU's fault was reported already
    EndReason.TEMPLATE_LOST: ExitRule(ExitReport.NOTHING, requeues=True, replaced=True),  # the loss was reported
    EndReason.RUN_ENDED: ExitRule(ExitReport.NOTHING),
}


class Exit(Record):
    """How a process ended. ``code``: negative for a signal, as in subprocess. ``cause``: the same in one line.

    ``current_batch``: the id of the batch it was processing, of its flight recorder; in a group also ``current_stage``
    and ``current_task``, the index of the batch's input at hand. ``last_lines``: what it printed and logged last.
    ``cpu_s``, ``max_rss_bytes``: what it and its children have used, ``None`` if the kernel could not be asked.
    ``lost_template``: the kernel killed it, since its template ended.
    """

    code: int
    cause: str
    current_batch: int | None = None
    last_lines: tuple[str, ...] = ()
    current_stage: int = 0
    current_task: int = 0
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    lost_template: bool = False


class Timeout(MutableRecord):
    """A worker took longer than ``limit_s`` seconds in ``phase``. ``stacks``: lines it wrote about its threads."""

    phase: StagePhase
    limit_s: float
    stacks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        option = "batch_timeout_s" if self.phase is StagePhase.PROCESS else "setup_timeout_s"
        return f"it took longer than {option} = {self.limit_s:g} s and was killed"


@dataclass(slots=True, eq=False)
class Worker:
    """A worker from spawn to reap. Times are seconds of the monotonic clock.

    ``number`` and ``worker_id`` are unique in the run. ``node_setup``: the process runs ``setup_on_node`` only.
    ``grant_withdrawn``: the autoscaler has given its share to others, so it is not replaced, however it ends.
    """

    number: int
    worker_id: str
    grant: WorkerGrant
    stage: StageState
    spawned_at: float
    node_setup: bool = False
    machine: Machine[WorkerState, WorkerEvent] = field(init=False)
    end_reason: EndReason | None = None
    grant_withdrawn: bool = False
    in_flight: dict[int, Batch] = field(default_factory=dict)
    open_block: tuple[Block, int] | None = None  # the block it has partly consumed, and the index of its next task
    segments_lent: int = 0  # that it may write to, less those it wrote: see ``segment_loans``
    segment_bytes: int = 0  # of the last output that it wrote to a segment of its own
    batches_done: int = 0
    booted_at: float | None = None
    setup_sent_at: float | None = None
    ready_at: float | None = None
    failed_at: float | None = None  # its stage raised, so it waits for Stop or tears down
    heard_at: float = 0.0  # its last message
    teardown_s: float | None = None  # of its `Stopped` message; ``None``: it has not reported it
    rss_peak_bytes: int | None = None  # as of its last batch
    timeout: Timeout | None = None
    termination: Termination | None = None
    prints_for: int = 0  # the stage of the group whose output it is that comes next

    def __post_init__(self) -> None:
        self.machine = Machine(f"worker {self.worker_id!r}", TRANSITIONS, WorkerState.SPAWNED)

    @property
    def members(self) -> Sequence[StageState]:
        """The stages that it runs: those of its group, or to set up the node the one that does so."""
        members = self.stage.members
        return [member for member in members if member.spec.sets_up_node] if self.node_setup else members

    @property
    def state(self) -> WorkerState:
        """Where it is."""
        return self.machine.state

    @property
    def is_ready(self) -> bool:
        """Whether it takes batches."""
        return self.machine.state is WorkerState.READY

    @property
    def is_starting(self) -> bool:
        """Whether it has not finished its set-up."""
        return self.machine.state in STARTING

    @property
    def is_setting_up(self) -> bool:
        """Whether it runs ``setup`` or ``setup_on_node``, told to stop or not."""
        return self.setup_sent_at is not None and self.ready_at is None and self.failed_at is None

    @property
    def is_idle(self) -> bool:
        """Whether it runs no code of the stage, so that it can be stopped without losing anything."""
        if self.in_flight or self.booted_at is None:
            return False
        return self.setup_sent_at is None or self.ready_at is not None

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of its GPUs."""
        return tuple(share.uuid for share in self.grant.allocation.gpus)

    @property
    def phase(self) -> StagePhase:
        """The phase of the stage's code it is probably in, for messages."""
        if self.state is WorkerState.STOPPING:
            return StagePhase.TEARDOWN
        if self.booted_at is None:
            return StagePhase.START_UP
        if self.setup_sent_at is not None and self.ready_at is None:
            return StagePhase.SETUP_ON_NODE if self.node_setup else StagePhase.SETUP
        return StagePhase.PROCESS if self.in_flight else StagePhase.IDLE

    @property
    def stacks_text(self) -> str | None:
        """The stacks it wrote when it took too long."""
        return "\n".join(self.timeout.stacks) if self.timeout is not None else None

    def advance(self, event: WorkerEvent, reason: EndReason | None = None) -> None:
        """Take a step and record why it leads to the end, if it does. Raises ``InternalError`` if it is illegal."""
        self.machine.advance(event)
        if reason is not None:
            self.end_reason = reason

    def assign(self, batch: Batch, now: float) -> None:
        """Note that a batch is sent to it."""
        batch.sent_at = now
        self.in_flight[batch.batch_id] = batch
        if batch.segments:
            self.stage.segments_in_flight += batch.segments

    def release(self, batch_id: int) -> Batch:
        """Take a batch from it, complete or not."""
        batch = self.in_flight.pop(batch_id)
        if batch.segments:
            self.stage.segments_in_flight -= batch.segments
        if batch.memory_out:
            self.stage.memory_out -= batch.memory_out
            batch.memory_out = 0
        return batch

    def exit_rule(self) -> ExitRule:
        """Return what its exit means, if it exits in its present state."""
        return UNEXPECTED if self.state is WorkerState.DRAINING else EXIT_RULES[self.end_reason]
