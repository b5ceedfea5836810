"""A stage of a run: what is fixed about it, and its queue, workers and counts."""

from __future__ import annotations

from collections import deque
from dataclasses import field

from gpuexec.channel.messages import ErrorHandling
from gpuexec.channel.payload import Payload
from gpuexec.core.batch import Batch
from gpuexec.core.decide import StageView
from gpuexec.core.queue import TaskQueue
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.service_times import ServiceTimes
from gpuexec.core.worker import Worker
from gpuexec.events import StageGauges
from gpuexec.planning.model import StagePlan, WorkerGrant
from gpuexec.policies import ShareEnforcement
from gpuexec.records import Record


class StageLimits(Record):
    """The limits of a stage's workers and batches: executor options of the same names, ``None`` for no limit."""

    stop_timeout_s: float = 10.0
    setup_timeout_s: float | None = None
    batch_timeout_s: float | None = None
    batch_wait_s: float | None = None
    max_batches_per_worker: int | None = None
    max_worker_lifetime_s: float | None = None
    worker_memory_limit_bytes: int | None = None

    @property
    def timeouts(self) -> list[float]:
        """Return the limits of the phases that have one."""
        return [limit for limit in (self.setup_timeout_s, self.batch_timeout_s) if limit is not None]


class StageSpec(Record):
    """A stage as the driver needs it: everything about it is already pickled or decided.

    ``payload``: the stage itself. A large one lies in a segment, from which each of its workers reads it. ``modules``:
    those that a worker will import to unpickle it, in order. ``error_handling``: what its workers do by themselves when
    it raises; ``policy``: what the driver does then. ``share_enforcement``: how they are held to a part of a GPU.
    ``max_concurrency``: of an asynchronous stage, the calls that a worker has in flight at most; ``None`` of others.
    ``shard``: the one whose tasks it returns, ``None`` for all.
    """

    index: int
    name: str
    batch_size: int
    payload: Payload
    modules: tuple[str, ...] = ()
    env_vars: dict[str, str] = field(default_factory=dict)
    sets_up_node: bool = False
    uses_gpu: bool = False
    is_source: bool = False
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: StageLimits = field(default_factory=StageLimits)
    error_handling: ErrorHandling = field(default_factory=ErrorHandling)
    share_enforcement: ShareEnforcement = ShareEnforcement.AUTO
    max_concurrency: int | None = None
    shard: str | None = None


class StageState:
    """A stage while its phase runs, alone or in a group of fused stages.

    Every stage has a queue and counts of its own. The workers belong to the first stage of a group, its *lead*, and run
    all stages of it; so do the attributes that the workers need. A stage that is not fused is its own lead.

    ``members``: of a lead, the stages of its group in order, itself included. ``pending_grants``: grants that have no
    worker now. ``requeued``: batches to run again, before the queue's tasks. ``upstream_done``: nothing more will be
    put before it. ``node_ready``: the group's ``setup_on_node`` is done or not needed. ``asked_at_first``: ids of the
    workers that it starts with since it asks for so many.
    """

    def __init__(self, spec: StageSpec, plan: StagePlan | None = None, *, lead: StageState | None = None) -> None:
        self.spec = spec
        self.lead = lead or self
        self.members: list[StageState] = []
        self.lead.members.append(self)
        self.queue = TaskQueue()
        self.requeued: deque[Batch] = deque()
        self.upstream_done = False
        self.finished = False
        self.node_ready = not spec.sets_up_node
        self.lead.node_ready = self.lead.node_ready and self.node_ready
        self.workers: dict[str, Worker] = {}
        self.has_fixed_count = plan is not None and plan.has_fixed_count
        granted = plan.workers if plan is not None else ()
        all_at_once = self.has_fixed_count or spec.uses_gpu
        count = plan.at_first if plan is not None else None
        at_first = granted[: count or (len(granted) if all_at_once else 1)]
        self.pending_grants: deque[WorkerGrant] = deque(at_first)
        self.asked_at_first = {grant.worker_id for grant in at_first} if count and not self.has_fixed_count else set()
        self.done_tasks = 0
        self.made_tasks = 0  # outputs of the done tasks
        self.quarantined_tasks = 0
        self.hinted = False  # that nothing comes out of it
        self.segments_in_flight = 0
        self.memory_out = 0  # bytes of memory that outputs of its batches in flight take, if they are for a later phase
        self.spills = False  # what is put before it now goes to disk
        self.spilled_bytes = 0  # of what waited before it
        self.longest_s: list[float] = []  # of its longest batches, a heap
        self.times = ServiceTimes()
        self.group_times = self.times  # of a lead: of batches, through all stages of its group
        if lead is not None:
            lead.group_times = ServiceTimes()

    @property
    def is_fused(self) -> bool:
        """Whether its group has other stages."""
        return len(self.lead.members) > 1

    @property
    def in_flight(self) -> int:
        """Batches at workers."""
        return sum(len(worker.in_flight) for worker in self.workers.values())

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits for the group's workers."""
        return any(member.queue or member.requeued for member in self.members)

    @property
    def has_unmeasured_work(self) -> bool:
        """Whether a stage of a group has tasks to do of which nobody knows yet how long they take."""
        if not self.is_fused:
            return False
        unmeasured = [member for member in self.members if not member.times.is_measured]
        if any(member.queue for member in unmeasured):
            return True
        batches = (batch for worker in self.workers.values() for batch in worker.in_flight.values())
        return bool(unmeasured) and any(batch.stage in unmeasured for batch in batches)

    @property
    def waiting_tasks(self) -> int:
        """Tasks queued before this stage, to be run again by it, or in flight since they were sent to it."""
        return len(self.queue) + self._requeued_tasks() + self._tasks_in_flight()

    @property
    def group_done_tasks(self) -> int:
        """Tasks that the group's stages have done, all together."""
        return sum(member.done_tasks for member in self.members)

    def gauges(self) -> StageGauges:
        """Return the stage's counts at this moment, for display. Fused stages all show the workers of their group."""
        workers = self.lead.workers.values()
        return StageGauges(
            done=self.done_tasks,
            queued=len(self.queue) + self._requeued_tasks(),
            in_flight=self._tasks_in_flight(),
            workers=sum(worker.is_ready for worker in workers),
            starting=sum(worker.is_starting for worker in workers),
            finished=self.finished,
            made=self.made_tasks,
        )

    def view(self) -> StageView:
        """Return the stage, or the group that it leads, as `decide` needs it."""
        live = [w for w in self.workers.values() if not w.node_setup]
        return StageView(
            queued=sum(len(member.queue) for member in self.members),
            requeued=sum(len(member.requeued) for member in self.members),
            batch_size=self.batch_size,
            upstream_done=self.upstream_done,
            in_flight=self.in_flight,
            live=len(live),
            starting=sum(w.is_starting for w in live),
            pending=len(self.pending_grants),
            has_fixed_count=self.has_fixed_count,
            uses_gpu=self.spec.uses_gpu,
        )

    @property
    def batch_size(self) -> int:
        """The most tasks of a batch; 1 in a group, where tasks go one by one and need not wait for others."""
        return 1 if self.is_fused else self.spec.batch_size

    def _requeued_tasks(self) -> int:
        return sum(batch.size for batch in self.requeued)

    def _tasks_in_flight(self) -> int:
        """Return the tasks at workers that were sent to this stage of the group."""
        batches = (batch for worker in self.lead.workers.values() for batch in worker.in_flight.values())
        return sum(batch.size for batch in batches if batch.stage is self)
