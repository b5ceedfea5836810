"""The GPUs of a run: watched for faults while it runs, and read before and after it, to judge its stats."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.core.run_state import RunState
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.hardware.provenance import Provenance, contamination, read_provenance
from gpuexec.processes.gpu_watch import PATIENCE_S, GpuWatch

_HURRIED_S = 0.5  # for an answer of the driver library, after Ctrl-C
_PROCESS_CLEANUP_XID = 45  # follows every kill of a process that holds a GPU, ours included


class RunGpus:
    """The GPUs of one run. Created only for a run that uses GPUs, so that NVML is not loaded otherwise."""

    def __init__(
        self,
        uuids: Sequence[str],
        processes: WorkerProcesses,
        state: RunState,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._uuids = uuids
        self._processes = processes
        self._state = state
        self._emit = emit
        self._before: Provenance = read_provenance(uuids)
        self._watch = GpuWatch(uuids)
        self._watches = True
        processes.add_reader(self._watch, self._on_faults)

    def _on_faults(self) -> None:
        for fault in self._watch.read():
            if fault.xid == _PROCESS_CLEANUP_XID:
                continue
            self._emit(events.Noticed(fault.text + (": the GPU is cordoned" if fault.fatal else "")))
            if fault.fatal:
                self._state.cordon(fault.devices, fault.text)
        for notice in self._watch.read_notices():
            self._emit(events.Noticed(notice))

    def report(self, *, interrupted: bool = False) -> None:
        """Report what the run ran on and what else used it, and end the watch. Call it when the last worker is gone.

        ``interrupted``: somebody has pressed Ctrl-C and waits for the end.
        """
        self.close(_HURRIED_S if interrupted else PATIENCE_S)
        after = read_provenance(self._uuids, _HURRIED_S if interrupted else float("inf"))
        notes = contamination(self._before, after, {os.getpid(), *self._processes.pids_so_far})
        for notice in self._unwatched(after):
            self._emit(events.Noticed(notice))
        self._emit(events.GpusRead(self._before, after, tuple(notes)))

    def _unwatched(self, after: Provenance) -> list[str]:
        """Say which devices were not watched, in a line for each reason. A hang has been named already."""
        devices: dict[str, list[str]] = {}
        for uuid, why in self._watch.unwatched.items():
            if not any(hang is not None and hang in why for hang in (self._before.hang, after.hang)):
                devices.setdefault(why, []).append(uuid)
        return [f"not watched for faults: {', '.join(uuids)}: {why}" for why, uuids in devices.items()]

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Stop watching; idempotent."""
        if self._watches:
            self._watches = False
            self._processes.remove_reader(self._watch)
            self._watch.close(patience_s)
