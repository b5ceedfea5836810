"""Watches the memory of the host and of the workers, and acts on its limits.

Above ``memory_high_watermark`` no new tasks are taken in while other stages can free memory, and what waits for a later
phase goes to disk. A worker above ``worker_memory_limit_bytes`` is replaced once it is idle.
"""

from __future__ import annotations

from gpuexec.config import ExecutorConfig
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
        config: ExecutorConfig,
        state: RunState,
        processes: WorkerProcesses,
    ) -> None:
        self._high = config.memory_high_watermark
        self._worker_limit = config.worker_memory_limit_bytes
        self._state = state
        self._processes = processes
        self.next_check = 0.0  # of the monotonic clock

    def check(self, now: float) -> None:
        """Read memory if it is time."""
        if now < self.next_check:
            return
        self.next_check = now + _READ_EVERY_S
        self._check_host()
        if self._worker_limit is not None:
            self._check_workers(self._worker_limit)

    def _check_host(self) -> None:
        if self._high >= 1.0:
            return
        dispatcher = self._state.dispatcher
        low = max(0.0, self._high - _HYSTERESIS)
        hold, reason = pressure(read_memory(), self._high, low, dispatcher.hold_sources)
        if hold or dispatcher.hold_sources:
            dispatcher.hold_first_stage(hold=hold, reason=reason)

    def _check_workers(self, limit: int) -> None:
        for worker in self._state.pool.workers:
            rss = process_rss(self._processes.pid(worker)) if worker.is_ready else None
            if rss is not None and rss > limit:
                self._state.pool.recycle(
                    worker,
                    f"it holds {rss / MIB:,.0f} MiB, above worker_memory_limit_bytes ({limit / MIB:,.0f} MiB)",
                )
