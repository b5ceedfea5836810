"""What the driver knows: tasks by reference, batches in hand, stages and their workers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gpuexec.channel.messages import BatchStats
from gpuexec.channel.wire import Receiver, Sender
from gpuexec.core.attempts import BatchLifecycle
from gpuexec.core.decide import StageView
from gpuexec.core.queue import Block, BlockSlice, TaskQueue
from gpuexec.core.worker_lifecycle import WorkerLifecycle, WorkerState
from gpuexec.events import StageGauges
from gpuexec.plan.model import StagePlan, WorkerGrant
from gpuexec.processes.spawn import WorkerProcess

_PACE = 0.2  # weight of the newest service time in the running mean
_ENOUGH_REPORTS = 2  # to plan with; one of a long batch is enough, and of cold workers it takes more
_ENOUGH_COLD_REPORTS = 10
_LONG_BATCH_S = 1.0


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
    is_source: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks in a worker's hands, and what has come of them so far. ``life``: only if it has failed before."""

    batch_id: int
    slices: list[BlockSlice]
    size: int
    input_bytes: int
    segments: int  # that its payloads lie in
    queued_s: float  # summed over its tasks
    sent_at: float = 0.0
    outputs: list[Block] = field(default_factory=list)
    made: int = 0  # tasks in ``outputs``
    parents: list[int] = field(default_factory=list)  # of each of them; kept only for a checkpoint
    life: BatchLifecycle | None = None
    requeued: bool = False  # unfinished, from a worker that failed at it or at another

    @property
    def task_ids(self) -> tuple[str, ...]:
        """Ids of its tasks, in order."""
        return tuple(task_id for block, start, stop in self.slices for task_id in block.task_ids[start:stop])

    def sources(self) -> list[int]:
        """The source that each of its tasks descends from, where a checkpoint is kept."""
        return [s for block, start, stop in self.slices for s in (block.sources or ())[start:stop]]

    def paths(self) -> list[bytes]:
        """Places of its tasks in the order of results."""
        (block, start, stop), *others = self.slices
        paths = block.paths[start:stop]
        for block, start, stop in others:
            paths += block.paths[start:stop]
        return paths


@dataclass(slots=True)
class Hang:
    """A worker took too long: it writes its stacks, then it is stopped."""

    phase: str
    limit_s: float
    stacks_until: float
    told_to_stop: bool = False
    stacks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        option = "batch_timeout_s" if self.phase == "process" else "setup_timeout_s"
        return f"it took longer than {option} = {self.limit_s:g} s and was killed"


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process from spawn to reap. ``node_setup``: it only runs ``setup_on_node``.

    ``retiring``: why it gets no more batches and ends; it is replaced unless it ``is_surplus``.
    ``cordoned``: the fault of a GPU it was killed for.
    """

    grant: WorkerGrant
    stage: StageState
    process: WorkerProcess
    life: WorkerLifecycle
    sender: Sender
    receiver: Receiver
    spawned_at: float
    oom_kills_before: int | None
    node_setup: bool = False
    in_flight: dict[int, Batch] = field(default_factory=dict)
    open_block: tuple[Block, int] | None = None  # it has this one still, dealt out up to there
    readable: bool = True  # its socket is open to be read
    writable: bool = True  # and to be written to
    set_up_node: bool = False  # its setup_on_node returned
    stop_deadline: float | None = None
    overdue: bool = False  # killed because it did not stop in time
    teardown_s: float | None = None
    rss_peak_bytes: int | None = None  # as of its last batch
    setup_sent_at: float | None = None
    heard_at: float = 0.0  # its last message, on the monotonic clock
    batches: int = 0  # completed
    hang: Hang | None = None
    wrote_stacks: bool = False  # or was asked to
    retiring: str | None = None
    is_surplus: bool = False
    cordoned: str | None = None

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
    def takes_work(self) -> bool:
        """Whether it is to get batches."""
        return self.life.state is WorkerState.READY and self.retiring is None and self.hang is None

    @property
    def at_work(self) -> Batch | None:
        """The batch it is at; ``None`` between two. Of its process, so not once that is buried."""
        entry = self.process.recorder.read()
        return self.in_flight.get(entry[0]) if entry is not None else None

    @property
    def stacks_text(self) -> str | None:
        """The stacks it wrote when it took too long."""
        return "\n".join(self.hang.stacks) if self.hang is not None else None

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
                return "process" if self.in_flight else "idle time"


class StageState:
    """A stage while its phase runs."""

    def __init__(self, spec: StageSpec, plan: StagePlan) -> None:
        self.spec = spec
        self.queue = TaskQueue()
        self.returned: deque[Batch] = deque()  # batches to be done again, before the queue's tasks
        self.upstream_done = False
        self.finished = False
        self.node_ready = not spec.sets_up_node
        self.workers: dict[str, Worker] = {}
        at_first = plan.workers if plan.has_fixed_count or spec.uses_gpu else plan.workers[:1]
        self.spare: deque[WorkerGrant] = deque(at_first)
        self.has_fixed_count = plan.has_fixed_count
        self.done_tasks = 0
        self.made_tasks = 0  # of those done
        self.busy_s = self.idle_s = 0.0  # summed over its workers
        self.quarantined_tasks = 0
        self.segments_in_flight = 0
        self.batch_s: float | None = None
        self.batch_bytes = 0.0
        self.task_s: float | None = None
        self._warm_reports = self._cold_reports = 0
        self.startup_s: float | None = None

    @property
    def in_flight(self) -> int:
        """Batches in workers' hands."""
        return sum(len(worker.in_flight) for worker in self.workers.values())

    def note_pace(self, stats: BatchStats, *, warm: bool) -> None:
        """Update the running means of a batch's service time and size, and of a task's service time.

        A worker's first batches may hold imports and allocations, and its wait for them the start of others: unless it
        is ``warm`` its figures serve only as long as there are no others.
        """
        if not warm:
            self._cold_reports += 1
            if self._warm_reports:
                return
        batch_s, batch_bytes = stats.busy_s / stats.batches, stats.input_bytes / stats.batches
        task_s = stats.busy_s / max(1, stats.tasks_in)
        if warm:
            self.busy_s += stats.busy_s
            self.idle_s += stats.idle_s
            self._warm_reports += 1
        if self._warm_reports < 2 or self.batch_s is None or self.task_s is None:
            self.batch_s, self.batch_bytes, self.task_s = batch_s, batch_bytes, task_s
            return
        weight = max(_PACE, 1 / self._warm_reports)  # the first few count alike
        self.batch_s += weight * (batch_s - self.batch_s)
        self.batch_bytes += weight * (batch_bytes - self.batch_bytes)
        self.task_s += weight * (task_s - self.task_s)

    def note_startup(self, seconds: float) -> None:
        """Keep the shortest time from spawn to ready: the others waited for each other."""
        self.startup_s = seconds if self.startup_s is None else min(self.startup_s, seconds)

    @property
    def is_measured(self) -> bool:
        """Whether its service times are worth planning with."""
        if self._warm_reports >= _ENOUGH_REPORTS or self._cold_reports >= _ENOUGH_COLD_REPORTS:
            return True
        return self._warm_reports > 0 and self.batch_s is not None and self.batch_s >= _LONG_BATCH_S

    @property
    def waiting_tasks(self) -> int:
        """Tasks queued, to be done again, or in workers' hands."""
        in_flight = sum(batch.size for worker in self.workers.values() for batch in worker.in_flight.values())
        return len(self.queue) + sum(batch.size for batch in self.returned) + in_flight

    def gauges(self) -> StageGauges:
        """The stage at this moment, for display."""
        workers = self.workers.values()
        waiting_again = sum(batch.size for batch in self.returned)
        return StageGauges(
            done=self.done_tasks,
            queued=len(self.queue) + waiting_again,
            in_flight=sum(batch.size for worker in workers for batch in worker.in_flight.values()),
            workers=sum(worker.is_ready for worker in workers),
            starting=sum(not worker.is_ready for worker in workers),
            finished=self.finished,
        )

    def view(self) -> StageView:
        """The stage as `decide` wants it."""
        live = [w for w in self.workers.values() if not w.node_setup]
        return StageView(
            queued=len(self.queue),
            returned=len(self.returned),
            batch_size=self.spec.batch_size,
            upstream_done=self.upstream_done,
            in_flight=self.in_flight,
            live=len(live),
            starting=sum(not w.is_ready for w in live),
            spare=len(self.spare),
            has_fixed_count=self.has_fixed_count,
            uses_gpu=self.spec.uses_gpu,
        )
