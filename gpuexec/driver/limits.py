"""Watches the memory of the host and of the workers, and acts on its limits.

Above ``memory_high_watermark`` no new tasks are taken in while other stages can free memory, and what waits for a later
phase goes to disk. A worker above ``worker_memory_limit_bytes`` is replaced once it is idle.
"""

from __future__ import annotations

from gpuexec.core.run_state import RunState
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.hardware.host_memory import pressure, process_rss, read_memory
from gpuexec.units import MIB

_READ_EVERY_S = 1.0
_HYSTERESIS = 0.05  # of the limit: intake resumes that far below the high watermark


class MemoryLimits:
    """The limits of one run."""

    def __init__(
        self,
        high_watermark: float,
        state: RunState,
        processes: WorkerProcesses,
    ) -> None:
        self._high = high_watermark
        self._limits_workers = any(s.spec.limits.worker_memory_limit_bytes is not None for s in state.stages)
        self._state = state
        self._processes = processes
        self.next_check = 0.0  # of the monotonic clock

    def check(self, now: float) -> None:
        """Read memory if it is time."""
        if now < self.next_check:
            return
        self.next_check = now + _READ_EVERY_S
        self._check_host()
        if self._limits_workers:
            self._check_workers()

    def _check_host(self) -> None:
        if self._high >= 1.0:
            return
        dispatcher = self._state.dispatcher
        low = max(0.0, self._high - _HYSTERESIS)
        hold, reason = pressure(read_memory(), self._high, low, dispatcher.hold.is_on)
        if hold or dispatcher.hold.is_on:
            dispatcher.hold_first_stage(hold=hold, reason=reason)

    def _check_workers(self) -> None:
        for worker in self._state.pool.workers:
            limit = worker.stage.spec.limits.worker_memory_limit_bytes
            if limit is None or not worker.is_ready:
                continue
            rss = process_rss(self._processes.pid(worker))
            if rss is not None and rss > limit:
                self._state.pool.recycle(
                    worker,
                    f"it holds {rss / MIB:,.0f} MiB, above worker_memory_limit_bytes ({limit / MIB:,.0f} MiB)",
                )
