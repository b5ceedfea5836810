"""The worker pool: which workers there are. They are started, set up in turn, drained, replaced, taken off GPUs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from gpuexec import events
from gpuexec.channel.messages import SetUp, SetUpOnNode
from gpuexec.core import decide
from gpuexec.core.ports import Processes, Surroundings
from gpuexec.core.stage import StageState
from gpuexec.core.termination import Terminator
from gpuexec.core.worker import EndReason, Exit, Worker, WorkerEvent, WorkerState
from gpuexec.core.worker_time import IdleReason, WorkerTimes
from gpuexec.errors import GpusLost, StartRefused
from gpuexec.planning.model import WorkerGrant, next_worker_id

_REFUSED_PAUSE_S = 5.0  # before the system is asked again for a process that it refused


class WorkerPool:
    """The workers of all stages.

    ``max_parallel_setups``: workers of the node that may run ``setup`` at once. ``worker_ids``: all that were given so
    far; no two processes of a run have the same.
    """

    def __init__(
        self,
        stages: Sequence[StageState],
        *,
        processes: Processes,
        terminator: Terminator,
        surroundings: Surroundings,
        max_parallel_setups: int,
        emit: Callable[[events.RunEvent], None],
        times: WorkerTimes,
    ) -> None:
        self._stages = stages
        self._processes = processes
        self._terminator = terminator
        self._surroundings = surroundings
        self._max_parallel_setups = max_parallel_setups
        self._emit = emit
        self._times = times
        self._numbers = itertools.count()
        self._gpu_memory_before: dict[int, dict[str, int]] = {}
        self._cordoned: dict[str, str] = {}  # GPU UUID → its fault
        self._refused_until: dict[int, float] = {}  # when a stage may ask for a worker again, by its index
        self._told_of_refusal: set[int] = set()  # indices of stages
        self.worker_ids = {grant.worker_id for stage in stages for grant in stage.pending_grants}

    @property
    def workers(self) -> Iterator[Worker]:
        """All workers that are not reaped yet."""
        return (worker for stage in self._stages for worker in stage.workers.values())

    # ---- starting --------------------------------------------------------------------------------------

    def start_workers(self, stage: StageState, now: float) -> None:
        """Start the workers that a stage should have now.

        If the system refuses a process, the stage goes on with the workers it has, and its grant is used when another
        worker has ended or a while has passed. Raises ``StartRefused`` if it has none, or none to set up the node.
        """
        grant = self._grant_for_node_setup(stage)
        if grant is not None:
            used = self._surroundings.gpu_memory_used([share.uuid for share in grant.allocation.gpus])
            self._gpu_memory_before[stage.spec.index] = used
            try:
                self._start(stage, grant, decide.StartReason.NODE, now, node_setup=True)
            except StartRefused as refusal:
                raise StartRefused(f"setup_on_node() of stage {stage.spec.name!r} cannot run: {refusal}") from refusal
        while True:
            count, reason = decide.workers_to_start(stage.view())
            if reason is None:
                return
            for _ in range(count):
                grant = stage.pending_grants[0]
                if not self.add(stage, grant, _reason_for(stage, grant, reason), now):
                    return
                stage.pending_grants.popleft()

    def _grant_for_node_setup(self, stage: StageState) -> WorkerGrant | None:
        """Return the grant that ``setup_on_node`` runs with, the first worker's; ``None`` if it is not to run now."""
        if stage.node_ready or any(worker.node_setup for worker in stage.workers.values()):
            return None
        grants = [*stage.pending_grants, *(worker.grant for worker in stage.workers.values())]
        return next((grant for grant in grants if not self._is_cordoned(grant)), None)

    def add(self, stage: StageState, grant: WorkerGrant, reason: str, now: float) -> bool:
        """Start one more worker. Return False if it has to wait for its modules, or the system refuses a process.

        Raises ``StartRefused`` if the stage has no worker at all.
        """
        index = stage.spec.index
        if now < self._refused_until.get(index, now):
            return False
        try:
            return self._start(stage, grant, reason, now)
        except StartRefused as refusal:
            self._refused_until[index] = now + _REFUSED_PAUSE_S
            if not stage.workers:
                raise StartRefused(f"stage {stage.spec.name!r} has no worker: {refusal}") from refusal
            if index not in self._told_of_refusal:
                self._told_of_refusal.add(index)
                self._emit(
                    events.Noticed(
                        f"stage {stage.spec.name!r} goes on with the {len(stage.workers)} worker(s) it has, since "
                        f"another cannot be started: {refusal}"
                    )
                )
            return False

    def _start(
        self, stage: StageState, grant: WorkerGrant, reason: str, now: float, *, node_setup: bool = False
    ) -> bool:
        worker_id = f"{stage.spec.name}-node-setup" if node_setup else grant.worker_id
        worker = Worker(next(self._numbers), worker_id, grant, stage, now, node_setup)
        started = self._processes.start(worker)
        if started is None:
            return False
        worker.spawned_at = started.at
        stage.workers[worker_id] = worker
        self._times.started(worker, started.at)
        self._emit(
            events.WorkerStarted(
                started.at, stage.spec.index, worker_id, started.pid, str(reason), started.warm, worker.gpus
            )
        )
        return True

    def _new_id(self, replaced: str) -> str:
        """Return the id of a replacement. Stages name files after it, so no two processes of a run have the same."""
        self.worker_ids.add(name := next_worker_id(replaced.rpartition("-")[0], self.worker_ids))
        return name

    def permit_setups(self, now: float) -> None:
        """Let workers begin their set-up as their turn comes."""
        workers = sorted(self.workers, key=lambda worker: worker.number)
        waiting = [w for w in workers if w.state is WorkerState.LOADED and (w.node_setup or w.stage.node_ready)]
        if not waiting:
            return
        running = [w.gpus for w in workers if w.is_setting_up]
        chosen = decide.next_setups([(w.number, w.gpus) for w in waiting], running, self._max_parallel_setups)
        for worker in waiting:
            if worker.number in chosen:
                worker.advance(WorkerEvent.SETUP_SENT)
                worker.setup_sent_at = now
                self._processes.send(worker, SetUpOnNode() if worker.node_setup else SetUp())
                self._times.idle(worker, IdleReason.SETTING_UP, now)
            elif any(uuid in gpus for gpus in running for uuid in worker.gpus):
                self._times.idle(worker, IdleReason.NO_GPU_ROOM, now)

    # ---- draining --------------------------------------------------------------------------------------

    def stop_drained(self, stage: StageState, now: float) -> None:
        """Drain workers that have done their share, and stop the drained ones that are idle."""
        maximum = stage.spec.limits.max_batches_per_worker
        for worker in stage.workers.values():
            if worker.is_ready and maximum is not None and worker.batches_done >= maximum:
                self.recycle(worker, f"it has done max_batches_per_worker ({maximum})")
            if worker.state is WorkerState.DRAINING and worker.is_idle:
                self._terminator.stop(worker, None, now)
        self._replace_oldest(stage, now)

    def _replace_oldest(self, stage: StageState, now: float) -> None:
        """Replace the oldest worker of a stage if it is past its lifetime and all others are at work."""
        limit_s = stage.spec.limits.max_worker_lifetime_s
        if limit_s is None or stage.pending_grants or not all(worker.is_ready for worker in stage.workers.values()):
            return
        oldest = min(stage.workers.values(), key=lambda worker: worker.ready_at or now, default=None)
        if oldest is not None and now - (oldest.ready_at or now) >= limit_s:
            self.recycle(oldest, f"it is older than max_worker_lifetime_s ({limit_s:g} s)")
            if oldest.is_idle:
                self._terminator.stop(oldest, None, now)

    def recycle(self, worker: Worker, why: str) -> None:
        """Drain a worker and replace it."""
        if worker.is_ready:
            worker.advance(WorkerEvent.DRAIN, EndReason.RECYCLED)
            self._emit(events.Noticed(f"replacing worker {worker.worker_id!r}: {why}", "INFO"))

    def drain(self, stage: StageState, worker_id: str, now: float) -> None:
        """Drain a worker and do not replace it, however it ends."""
        stage.pending_grants = deque(grant for grant in stage.pending_grants if grant.worker_id != worker_id)
        worker = stage.workers.get(worker_id)
        if worker is None:
            return
        worker.grant_withdrawn = True
        if worker.is_starting or worker.state in (WorkerState.READY, WorkerState.DRAINING):
            worker.advance(WorkerEvent.DRAIN, EndReason.SURPLUS)
            self.stop_drained(stage, now)

    def withdraw_pending(self, stage: StageState) -> None:
        """Give up the grants of a stage that have no worker: their share goes to others."""
        stage.pending_grants.clear()

    # ---- after an exit ---------------------------------------------------------------------------------

    def remove(self, worker: Worker, exit_: Exit, now: float) -> None:
        """Remove a worker that was reaped, and use its grant again if it is to be replaced."""
        replaced = worker.exit_rule().replaced and not worker.grant_withdrawn
        worker.advance(WorkerEvent.EXITED)
        stage = worker.stage
        del stage.workers[worker.worker_id]
        self._refused_until.clear()  # the system has a process more to give
        if worker.node_setup:
            if worker.end_reason is EndReason.NODE_READY:
                self._note_node_setup(stage, worker, now)
        elif replaced and not (stage.finished or self._is_cordoned(worker.grant)):
            grant = worker.grant.renamed(self._new_id(worker.grant.worker_id))
            stage.pending_grants.appendleft(grant)
        self._emit(
            events.WorkerStopped(
                now,
                stage.spec.index,
                worker.worker_id,
                exit_.code,
                worker.teardown_s,
                cpu_s=exit_.cpu_s,
                max_rss_bytes=exit_.max_rss_bytes,
                reason=str(worker.end_reason or exit_.cause),
            )
        )

    def _note_node_setup(self, stage: StageState, worker: Worker, now: float) -> None:
        """Let the stage's workers set up.

        They do so only after this process is gone, so that its GPU memory is free, or known to be leaked.
        """
        stage.node_ready = True
        before = self._gpu_memory_before.pop(stage.spec.index, {})
        after = self._surroundings.gpu_memory_used(tuple(before))
        growth = tuple((uuid, after[uuid] - before[uuid]) for uuid in before if after.get(uuid, 0) > before[uuid])
        self._emit(events.NodeSetUp(now, worker.members[0].spec.index, now - worker.spawned_at, growth))

    # ---- GPUs that fail --------------------------------------------------------------------------------

    @property
    def cordoned(self) -> Collection[str]:
        """UUIDs of the GPUs that are out of use."""
        return self._cordoned.keys()

    def cordon(self, devices: Sequence[str], fault: str) -> None:
        """Take GPUs out of use: their workers are killed, and the batches go elsewhere. Repeating it is harmless."""
        self._cordoned.update(dict.fromkeys(devices, fault))
        for worker in list(self.workers):
            if self._is_cordoned(worker.grant) and worker.end_reason is not EndReason.CORDONED:
                self._terminator.kill(worker, EndReason.CORDONED)
        for stage in self._stages:
            stage.pending_grants = deque(g for g in stage.pending_grants if not self._is_cordoned(g))

    def check_gpus_left(self) -> None:
        """Raise ``GpusLost`` if a stage that has work to do has neither workers nor grants left."""
        for stage in self._stages:
            healthy = any(worker.end_reason is not EndReason.CORDONED for worker in stage.workers.values())
            if self._cordoned and stage.spec.uses_gpu and not (stage.finished or stage.pending_grants or healthy):
                faults = "; ".join(dict.fromkeys(self._cordoned.values()))
                raise GpusLost(f"stage {stage.spec.name!r} has no GPU left to run on: {faults}")

    def _is_cordoned(self, grant: WorkerGrant) -> bool:
        return any(share.uuid in self._cordoned for share in grant.allocation.gpus)


def _reason_for(stage: StageState, grant: WorkerGrant, reason: decide.StartReason) -> decide.StartReason:
    """Return why a worker is started that is no stage's first: ``reason``, unless the stage asks to start with it."""
    is_asked = reason is not decide.StartReason.FIRST and grant.worker_id in stage.asked_at_first
    return decide.StartReason.ASKED if is_asked else reason
