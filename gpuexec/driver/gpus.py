"""The GPUs of a run: watched while it goes on, read before and after, so that its figures can be judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.driver.pool import WorkerPool
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.hardware.provenance import Provenance, contamination, read_provenance
from gpuexec.plan.model import Plan
from gpuexec.processes.gpu_watch import GpuWatch

_PROCESS_CLEANUP_XID = 45  # follows every kill of a process that holds a GPU, ours included


class RunGpus:
    """Made only for a run that uses GPUs: NVML is not touched otherwise."""

    def __init__(
        self,
        uuids: Sequence[str],
        processes: WorkerProcesses,
        pool: WorkerPool,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._uuids = uuids
        self._processes = processes
        self._pool = pool
        self._emit = emit
        self._before: Provenance = read_provenance(uuids)
        self._watch = GpuWatch(uuids)
        processes.add_reader(self._watch, self._see)

    def _see(self) -> None:
        for fault in self._watch.read():
            if fault.xid != _PROCESS_CLEANUP_XID:
                self._pool.cordon(fault)

    def report(self) -> None:
        """Tell what the run ran on, and what else went on there. When the last worker is gone."""
        after = read_provenance(self._uuids)
        notes = contamination(self._before, after, {os.getpid(), *self._processes.pids_so_far})
        unwatched = [f"{uuid} was not watched for faults: {why}" for uuid, why in self._watch.unwatched.items()]
        self._emit(events.GpusRead(self._before, after, (*notes, *unwatched)))

    def close(self) -> None:
        """Watch no more."""
        self._processes.remove_reader(self._watch)
        self._watch.close()


def uuids_of(plan: Plan) -> list[str]:
    """The devices that a plan's workers are to use."""
    grants = [grant for phase in plan.phases for stage in phase.stages for grant in stage.workers]
    return sorted({share.uuid for grant in grants for share in grant.allocation.gpus})
