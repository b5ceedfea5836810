"""Everything a run tells its observers. Frozen; times are seconds of the monotonic clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gpuexec.channel.messages import BatchStats, LogLine
from gpuexec.plan.model import Plan
from gpuexec.records import Record

if TYPE_CHECKING:
    from gpuexec.hardware.provenance import Provenance


class RunStarted(Record):
    """The plan is made; workers are about to start."""

    at: float
    plan: Plan
    stages: tuple[str, ...]


class WorkerStarted(Record):
    """A process was spawned; ``why`` in words."""

    at: float
    stage: int
    worker_id: str
    pid: int
    why: str


class WorkerLoaded(Record):
    """Its stage is unpickled: ``spawn_s`` until the interpreter was up, ``load_s`` for the stage."""

    at: float
    stage: int
    worker_id: str
    spawn_s: float
    load_s: float


class NodeSetUp(Record):
    """``setup_on_node`` of a stage returned. ``gpu_growth_bytes``: GPU memory it left behind, per UUID."""

    at: float
    stage: int
    seconds: float
    gpu_growth_bytes: tuple[tuple[str, int], ...] = ()


class WorkerReady(Record):
    """``setup`` returned."""

    at: float
    stage: int
    worker_id: str
    setup_s: float


class BatchesFinished(Record):
    """Batches went through a stage: one, or several tiny ones that one message reported."""

    at: float
    stage: int
    worker_id: str
    batch_ids: tuple[int, ...]
    tasks_out: int
    queued_s: float  # summed over the tasks: how long each had waited
    in_worker_s: float  # summed over the batches: from sending to the last result, transfer and prefetch included
    stats: BatchStats


class BatchFailed(Record):
    """A batch (or a set-up: then ``batch_id`` is ``None``) failed: ``error`` in words, ``elapsed_s`` since it was sent.

    ``action`` and ``reason``: what is done about it and why (values of ``core.retries.Action`` and ``DecisionReason``).
    ``stacks``: of a worker that took too long. ``capsule``: where it can be replayed from.
    """

    at: float
    stage: int
    worker_id: str
    batch_id: int | None
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    action: str = ""
    reason: str = ""
    stacks: str | None = None
    capsule: str | None = None


class TasksQuarantined(Record):
    """Tasks were given up, so that the run can go on."""

    at: float
    stage: int
    worker_id: str
    task_ids: tuple[str, ...]
    error: str


class WorkerStopped(Record):
    """A worker is gone. ``teardown_s`` is ``None`` if it died before telling."""

    at: float
    stage: int
    worker_id: str
    exit_code: int
    teardown_s: float | None


class StageGauges(Record):
    """A stage at one moment. ``done``: tasks that went through it."""

    done: int
    queued: int
    in_flight: int
    workers: int
    starting: int
    finished: bool


class Gauged(Record):
    """All stages at one moment, at the progress display's pace."""

    at: float
    stages: tuple[StageGauges, ...]


class WorkerLogged(Record):
    """A loguru record of a worker."""

    stage: int
    worker_id: str
    record: LogLine


class WorkerPrinted(Record):
    """Lines that a worker wrote to stdout or stderr."""

    stage: int
    worker_id: str
    lines: tuple[str, ...]


class Noticed(Record):
    """Something the user should know that does not end the run; ``level`` is the log's."""

    text: str
    level: str = "WARNING"


class GpusRead(Record):
    """What the run's GPUs were like before and after it; ``notes`` on what makes its figures doubtful."""

    before: Provenance
    after: Provenance
    notes: tuple[str, ...]


class RunEnded(Record):
    """The run is over; ``error`` is ``None`` after success."""

    at: float
    error: str | None


RunEvent = (
    RunStarted
    | WorkerStarted
    | WorkerLoaded
    | NodeSetUp
    | WorkerReady
    | BatchesFinished
    | BatchFailed
    | TasksQuarantined
    | WorkerStopped
    | Gauged
    | WorkerLogged
    | WorkerPrinted
    | Noticed
    | GpusRead
    | RunEnded
)


class Observer(Protocol):
    """A reader of the stream. It must not raise and must not block for long: the driver waits."""

    def on_event(self, event: RunEvent, /) -> None:
        """Take note of an event."""
