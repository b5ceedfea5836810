"""Which workers there are: started, set up in turn, replaced, taken off GPUs that failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.channel import messages
from gpuexec.config import ExecutorConfig
from gpuexec.core import decide
from gpuexec.core.worker_lifecycle import WorkerEvent, WorkerState
from gpuexec.driver.state import StageState, Worker
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.errors import GpusLost
from gpuexec.plan.model import WorkerGrant

if TYPE_CHECKING:
    from gpuexec.hardware.nvml_events import GpuFault


class WorkerPool:
    """The workers of all stages. ``gpu_used`` reads the bytes in use by GPU UUID, around ``setup_on_node``."""

    def __init__(
        self,
        stages: Sequence[StageState],
        processes: WorkerProcesses,
        config: ExecutorConfig,
        *,
        emit: Callable[[events.RunEvent], None],
        gpu_used: Callable[[Sequence[str]], dict[str, int]],
    ) -> None:
        self._stages = stages
        self._processes = processes
        self._config = config
        self._emit = emit
        self._gpu_used = gpu_used
        self._gpu_before: dict[int, dict[str, int]] = {}
        self._cordoned: dict[str, str] = {}  # GPU UUID → what befell it

    # ---- starting --------------------------------------------------------------------------------------

    def start(self, stage: StageState) -> None:
        """Start the workers that a stage should have now."""
        grant = self._grant_for_node_setup(stage)
        if grant is not None:
            self._gpu_before[stage.spec.index] = self._gpu_used([g.uuid for g in grant.allocation.gpus])
            self._adopt(self._processes.start(stage, grant, node_setup=True), decide.StartReason.NODE)
        while (found := decide.workers_to_start(stage.view()))[0]:
            count, why = found
            for _ in range(count):
                self.add(stage, stage.spare.popleft(), why)

    @staticmethod
    def _grant_for_node_setup(stage: StageState) -> WorkerGrant | None:
        """What `setup_on_node` runs with, if it is to run now: what the stage's first worker has, or will have."""
        if stage.node_ready or any(worker.node_setup for worker in stage.workers.values()):
            return None
        grants = [*stage.spare, *(worker.grant for worker in stage.workers.values())]
        return grants[0] if grants else None

    def add(self, stage: StageState, grant: WorkerGrant, why: str) -> None:
        """Start a worker more."""
        self._adopt(self._processes.start(stage, grant), why)

    def _adopt(self, worker: Worker, why: str) -> None:
        worker.stage.workers[worker.id] = worker
        stage, pid = worker.stage.spec.index, worker.process.pid
        self._emit(events.WorkerStarted(worker.spawned_at, stage, worker.id, pid, str(why)))

    def permit_setups(self) -> None:
        """Let workers set up whose turn it is."""
        processes = self._processes.workers.values()
        waiting = [w for w in processes if w.life.state is WorkerState.LOADED and (w.node_setup or w.stage.node_ready)]
        if not waiting:
            return
        running = [w.gpus for w in processes if w.life.state is WorkerState.SETTING_UP]
        chosen = decide.next_setups([(w.id, w.gpus) for w in waiting], running, self._config.max_parallel_setups)
        for worker in waiting:
            if worker.id in chosen:
                worker.life.advance(WorkerEvent.SETUP_SENT)
                worker.setup_sent_at = time.monotonic()
                self._processes.send(worker, messages.SetUpOnNode() if worker.node_setup else messages.SetUp())

    # ---- replacing -------------------------------------------------------------------------------------

    def retire(self, stage: StageState) -> None:
        """Stop workers that have done their share or grown too large, once their hands are empty."""
        most = self._config.max_batches_per_worker
        for worker in stage.workers.values():
            if not worker.is_ready:
                continue
            if worker.retiring is None and most is not None and worker.batches >= most:
                worker.retiring = f"it has done max_batches_per_worker ({most})"
            if worker.retiring is not None and not worker.in_flight:
                if not worker.is_surplus:
                    self._emit(events.Noticed(f"worker {worker.id!r} is replaced: {worker.retiring}", "INFO"))
                self._processes.stop(worker)

    def drain(self, stage: StageState, worker_id: str, why: str) -> None:
        """Let a worker finish what it holds and end, and nobody take its place."""
        stage.spare = type(stage.spare)(grant for grant in stage.spare if grant.worker_id != worker_id)
        worker = stage.workers.get(worker_id)
        if worker is not None:
            worker.retiring, worker.is_surplus = why, True
            self.retire(stage)

    def reap(self, worker: Worker) -> int:
        """Reap a worker that has ended, and take its grant back; return its exit code."""
        code = self._processes.reap(worker)
        stage = worker.stage
        del stage.workers[worker.id]
        if worker.node_setup:
            if worker.set_up_node:
                self._note_node_setup(stage, worker)
        elif not (stage.finished or worker.is_surplus or self._is_cordoned(worker.grant)):
            stage.spare.appendleft(worker.grant)
        self._emit(events.WorkerStopped(time.monotonic(), stage.spec.index, worker.id, code, worker.teardown_s))
        return code

    def _note_node_setup(self, stage: StageState, worker: Worker) -> None:
        """Only once its process is gone do the workers set up: its GPU memory is free by then, or leaked."""
        stage.node_ready = True
        before = self._gpu_before.pop(stage.spec.index, {})
        after = self._gpu_used(tuple(before))
        growth = tuple((uuid, after[uuid] - before[uuid]) for uuid in before if after.get(uuid, 0) > before[uuid])
        now = time.monotonic()
        self._emit(events.NodeSetUp(now, stage.spec.index, now - worker.spawned_at, growth))

    # ---- GPUs that fail --------------------------------------------------------------------------------

    def cordon(self, fault: GpuFault) -> None:
        """Take a GPU out of use: its workers are killed, their batches go elsewhere. Repeating it is harmless.

        Raises ``GpusLost`` when a stage is left without a place to run.
        """
        self._emit(events.Noticed(fault.text + (": the GPU is cordoned" if fault.fatal else "")))
        if not fault.fatal:
            return
        self._cordoned.update(dict.fromkeys(fault.devices, fault.text))
        for worker in list(self._processes.workers.values()):
            if self._is_cordoned(worker.grant) and worker.cordoned is None:
                worker.cordoned = fault.text
                self._processes.kill(worker)
        for stage in self._stages:
            stage.spare = type(stage.spare)(grant for grant in stage.spare if not self._is_cordoned(grant))
        self.check_places()

    def check_places(self) -> None:
        """Raise ``GpusLost`` if a stage that has work to do has neither workers nor grants left."""
        for stage in self._stages:
            healthy = any(worker.cordoned is None for worker in stage.workers.values())
            if self._cordoned and stage.spec.uses_gpu and not (stage.finished or stage.spare or healthy):
                faults = "; ".join(dict.fromkeys(self._cordoned.values()))
                raise GpusLost(f"stage {stage.spec.name!r} has no GPU left to run on: {faults}")

    @property
    def cordoned(self) -> Collection[str]:
        """UUIDs of the GPUs that are out of use."""
        return self._cordoned.keys()

    def _is_cordoned(self, grant: WorkerGrant) -> bool:
        return any(share.uuid in self._cordoned for share in grant.allocation.gpus)
