"""Everything a run tells its observers. Frozen; times are seconds of the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpuexec.channel.messages import Figures, LogLine
from gpuexec.plan.model import Plan


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is made; workers are about to start."""

    at: float
    plan: Plan
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A process was spawned; ``why`` in words."""

    at: float
    stage: int
    worker_id: str
    pid: int
    why: str


@dataclass(frozen=True, slots=True)
class WorkerLoaded:
    """Its stage is unpickled: ``spawn_s`` until the interpreter was up, ``load_s`` for the stage."""

    at: float
    stage: int
    worker_id: str
    spawn_s: float
    load_s: float


@dataclass(frozen=True, slots=True)
class NodeSetUp:
    """``setup_on_node`` of a stage returned. ``gpu_growth_bytes``: GPU memory it left behind, per UUID."""

    at: float
    stage: int
    seconds: float
    gpu_growth_bytes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """``setup`` returned."""

    at: float
    stage: int
    worker_id: str
    setup_s: float


@dataclass(frozen=True, slots=True)
class BatchesFinished:
    """Batches went through a stage: one, or several tiny ones that one message reported."""

    at: float
    stage: int
    worker_id: str
    batch_ids: tuple[int, ...]
    tasks_out: int
    queued_s: float  # summed over the tasks: how long each had waited
    in_worker_s: float  # summed over the batches: from sending to the last result, transfer and prefetch included
    figures: Figures


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """A batch (or a set-up: then ``batch_id`` is ``None``) failed: ``error`` in words, ``elapsed_s`` since it was sent.

    ``verdict``: what is done about it. ``stacks``: of a worker that took too long. ``capsule``: where it can be
    replayed from.
    """

    at: float
    stage: int
    worker_id: str
    batch_id: int | None
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    verdict: str = ""
    stacks: str | None = None
    capsule: str | None = None


@dataclass(frozen=True, slots=True)
class TasksQuarantined:
    """Tasks were given up, so that the run can go on."""

    at: float
    stage: int
    worker_id: str
    task_ids: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """A worker is gone. ``teardown_s`` is ``None`` if it died before telling."""

    at: float
    stage: int
    worker_id: str
    exit_code: int
    teardown_s: float | None


@dataclass(frozen=True, slots=True)
class StageGauges:
    """A stage at one moment. ``done``: tasks that went through it."""

    done: int
    queued: int
    in_flight: int
    workers: int
    starting: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Gauged:
    """All stages at one moment, at the progress display's pace."""

    at: float
    stages: tuple[StageGauges, ...]


@dataclass(frozen=True, slots=True)
class WorkerLogged:
    """A loguru record of a worker."""

    stage: int
    worker_id: str
    record: LogLine


@dataclass(frozen=True, slots=True)
class WorkerPrinted:
    """Lines that a worker wrote to stdout or stderr."""

    stage: int
    worker_id: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something the user should know that does not end the run."""

    text: str


@dataclass(frozen=True, slots=True)
class RunEnded:
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
    | RunEnded
)


class Observer(Protocol):
    """A reader of the stream. It must not raise and must not block for long: the driver waits."""

    def see(self, event: RunEvent, /) -> None:
        """Take note of an event."""
