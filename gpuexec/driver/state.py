"""What the driver knows: tasks by reference, batches in hand, stages and their workers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gpuexec.channel.messages import Payload, payload_size
from gpuexec.channel.segments import Range
from gpuexec.channel.wire import Receiver, Sender
from gpuexec.driver.decide import StageView
from gpuexec.lifecycle.workers import WorkerLife, WorkerState
from gpuexec.plan.model import StagePlan, WorkerGrant
from gpuexec.supervise.spawn import WorkerProcess

_PACE = 0.2  # weight of the newest service time in the running mean


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage as the driver needs it: everything about it is already pickled or decided."""

    index: int
    name: str
    batch_size: int
    payload: bytes
    env_vars: dict[str, str] = field(default_factory=dict)
    sets_up_node: bool = False
    uses_gpu: bool = False


@dataclass(slots=True)
class TaskRef:
    """A task the driver holds without looking into it.

    ``path`` is its place in the order of results: its ancestors' positions among their siblings, so that
    sorting by it gives the order of one process doing everything in turn.
    """

    task_id: str
    path: tuple[int, ...]
    payload: Payload
    queued_at: float


class TaskQueue:
    """Tasks that wait before a stage, counted by number, bytes and segments."""

    __slots__ = ("_tasks", "bytes", "segments")

    def __init__(self) -> None:
        self._tasks: deque[TaskRef] = deque()
        self.bytes = 0
        self.segments = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def push(self, task: TaskRef) -> None:
        """Add a task at the end."""
        self._tasks.append(task)
        self.bytes += payload_size(task.payload)
        self.segments += isinstance(task.payload, Range)

    def take(self, count: int) -> list[TaskRef]:
        """Remove the first ``count`` tasks (or all there are)."""
        taken = [self._tasks.popleft() for _ in range(min(count, len(self._tasks)))]
        for task in taken:
            self.bytes -= payload_size(task.payload)
            self.segments -= isinstance(task.payload, Range)
        return taken


@dataclass(slots=True)
class Batch:
    """Tasks in a worker's hands, and what has come of them so far."""

    batch_id: int
    task_ids: tuple[str, ...]
    paths: list[tuple[int, ...]]
    input_bytes: int
    queued_s: float
    sent_at: float
    outputs: list[TaskRef] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process from spawn to reap. ``node_setup``: it only runs ``setup_on_node``."""

    grant: WorkerGrant
    stage: StageState
    process: WorkerProcess
    life: WorkerLife
    sender: Sender
    receiver: Receiver
    spawned_at: float
    oom_kills_before: int | None
    node_setup: bool = False
    in_hand: dict[int, Batch] = field(default_factory=dict)
    hears: bool = True  # its socket is open
    stop_deadline: float | None = None
    teardown_s: float | None = None
    rss_peak_bytes: int | None = None  # as of its last batch

    @property
    def id(self) -> str:
        """Worker id."""
        return self.process.worker_id

    @property
    def gpus(self) -> tuple[str, ...]:
        """UUIDs of its GPUs."""
        return tuple(share.uuid for share in self.grant.allocation.gpus)

    @property
    def is_ready(self) -> bool:
        """Whether it takes batches."""
        return self.life.state is WorkerState.READY

    @property
    def busy_with(self) -> str:
        """The phase of the stage's code that it is probably in, for messages."""
        match self.life.state:
            case WorkerState.SPAWNED:
                return "start-up"
            case WorkerState.SETTING_UP:
                return "setup_on_node" if self.node_setup else "setup"
            case WorkerState.STOPPING:
                return "teardown"
            case _:
                return "process" if self.in_hand else "idle time"


class StageState:
    """A stage while its phase runs."""

    def __init__(self, spec: StageSpec, plan: StagePlan) -> None:
        self.spec = spec
        self.queue = TaskQueue()
        self.upstream_done = False
        self.finished = False
        self.node_ready = not spec.sets_up_node
        self.workers: dict[str, Worker] = {}
        self.spare: deque[WorkerGrant] = deque(plan.workers)
        self.fixed = plan.fixed
        self.done_tasks = 0
        self.batch_s: float | None = None
        self.batch_bytes = 0.0
        self.startup_s: float | None = None

    @property
    def in_flight(self) -> int:
        """Batches in workers' hands."""
        return sum(len(worker.in_hand) for worker in self.workers.values())

    def note_pace(self, batch_s: float, input_bytes: int) -> None:
        """Update the running mean of a batch's service time and size."""
        known = self.batch_s
        self.batch_s = batch_s if known is None else known + _PACE * (batch_s - known)
        self.batch_bytes = input_bytes if known is None else self.batch_bytes + _PACE * (input_bytes - self.batch_bytes)

    def view(self) -> StageView:
        """The stage as `decide` wants it."""
        live = [w for w in self.workers.values() if not w.node_setup]
        return StageView(
            queued=len(self.queue),
            batch_size=self.spec.batch_size,
            upstream_done=self.upstream_done,
            in_flight=self.in_flight,
            live=len(live),
            starting=sum(not w.is_ready for w in live),
            spare=len(self.spare),
            fixed=self.fixed,
            uses_gpu=self.spec.uses_gpu,
            batch_s=self.batch_s,
            startup_s=self.startup_s,
        )
