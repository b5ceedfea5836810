"""A stage of a run: what is fixed about it, and its queue, workers and counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from gpuexec.channel.payload import Payload
from gpuexec.core.batch import Batch
from gpuexec.core.decide import StageView
from gpuexec.core.queue import TaskQueue
from gpuexec.core.service_times import ServiceTimes
from gpuexec.core.worker import Worker
from gpuexec.events import StageGauges
from gpuexec.plan.model import StagePlan, WorkerGrant


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage as the driver needs it: everything about it is already pickled or decided.

    ``payload``: the stage itself. A large one lies in a segment, from which each of its workers reads it. ``modules``:
    those that a worker will import to unpickle it, in order.
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


class StageState:
    """A stage while its phase runs.

    ``pending_grants``: grants that have no worker now. ``requeued``: batches to run again, before the queue's tasks.
    ``upstream_done``: nothing more will be put before it. ``node_ready``: its ``setup_on_node`` is done or not needed.
    """

    def __init__(self, spec: StageSpec, plan: StagePlan) -> None:
        self.spec = spec
        self.queue = TaskQueue()
        self.requeued: deque[Batch] = deque()
        self.upstream_done = False
        self.finished = False
        self.node_ready = not spec.sets_up_node
        self.workers: dict[str, Worker] = {}
        at_first = plan.workers if plan.has_fixed_count or spec.uses_gpu else plan.workers[:1]
        self.pending_grants: deque[WorkerGrant] = deque(at_first)
        self.has_fixed_count = plan.has_fixed_count
        self.done_tasks = 0
        self.made_tasks = 0  # outputs of the done tasks
        self.quarantined_tasks = 0
        self.hinted = False  # that nothing comes out of it
        self.segments_in_flight = 0
        self.times = ServiceTimes()

    @property
    def in_flight(self) -> int:
        """Batches at workers."""
        return sum(len(worker.in_flight) for worker in self.workers.values())

    @property
    def waiting_tasks(self) -> int:
        """Tasks queued, to be run again, or in flight."""
        return len(self.queue) + self._requeued_tasks() + self._tasks_in_flight()

    def gauges(self) -> StageGauges:
        """Return the stage's counts at this moment, for display."""
        workers = self.workers.values()
        return StageGauges(
            done=self.done_tasks,
            queued=len(self.queue) + self._requeued_tasks(),
            in_flight=self._tasks_in_flight(),
            workers=sum(worker.is_ready for worker in workers),
            starting=sum(worker.is_starting for worker in workers),
            finished=self.finished,
        )

    def view(self) -> StageView:
        """Return the stage as `decide` needs it."""
        live = [w for w in self.workers.values() if not w.node_setup]
        return StageView(
            queued=len(self.queue),
            requeued=len(self.requeued),
            batch_size=self.spec.batch_size,
            upstream_done=self.upstream_done,
            in_flight=self.in_flight,
            live=len(live),
            starting=sum(w.is_starting for w in live),
            pending=len(self.pending_grants),
            has_fixed_count=self.has_fixed_count,
            uses_gpu=self.spec.uses_gpu,
        )

    def _requeued_tasks(self) -> int:
        return sum(batch.size for batch in self.requeued)

    def _tasks_in_flight(self) -> int:
        return sum(batch.size for worker in self.workers.values() for batch in worker.in_flight.values())
