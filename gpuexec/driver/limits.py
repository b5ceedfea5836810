"""Watches what a run lives on: batches that hang, workers that grow, the host's memory, the GPUs.

Each check is a reading of a clock or a counter and a decision; what follows from it is `Run`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gpuexec import events
from gpuexec.config import ExecutorConfig
from gpuexec.core.worker_lifecycle import WorkerState
from gpuexec.driver.state import Hang, Worker
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.hardware.host_memory import pressure, process_rss, read_memory
from gpuexec.processes import reap

_STACKS_S = 0.5  # to write them
_TERM_S = 2.0  # for teardown; then it is killed
_READ_EVERY_S = 1.0  # memory, of host and workers
_LOW_BELOW_HIGH = 0.05  # of the limit: sources are let go on that far below the high-water mark
_LONG_TURN = 0.25  # of the shortest time limit: a caller that takes longer makes workers wait, not they us
_NO_STACKS = "no stacks: the process was stopped (by SIGSTOP or a debugger), so it could not write them"


class Limits:
    """One run's checks; ``check`` is called at every turn of the loop, ``next_check`` says when at the latest."""

    def __init__(
        self, config: ExecutorConfig, processes: WorkerProcesses, emit: Callable[[events.RunEvent], None]
    ) -> None:
        self._config = config
        self._processes = processes
        self._emit = emit
        self._limits = [limit for limit in (config.batch_timeout_s, config.setup_timeout_s) if limit is not None]
        self._resumed_at = 0.0
        self._next_reading = 0.0
        self.hold_sources = False

    def resume(self, handed_over_at: float) -> None:
        """The caller had the turn since then. If it was long, all clocks start anew: nobody listened to the workers."""
        now = time.monotonic()
        if self._limits and now - handed_over_at > _LONG_TURN * min(self._limits):
            self._resumed_at = now

    def check(self, workers: Iterable[Worker]) -> None:
        """Act on workers that take too long; read memory if it is time."""
        now = time.monotonic()
        if self._limits:
            for worker in workers:
                self._check_hang(worker, now)
        if now >= self._next_reading:
            self._next_reading = now + _READ_EVERY_S
            self._read_host()
            if self._config.worker_memory_limit_bytes is not None:
                for worker in workers:
                    self._read_worker(worker, self._config.worker_memory_limit_bytes)

    def next_check(self, workers: Iterable[Worker]) -> float:
        """When to look again, on the monotonic clock."""
        times = [self._next_reading]
        if self._limits:
            times += [due for worker in workers if (due := self._due(worker)) is not None]
        return min(times)

    # ---- hangs -----------------------------------------------------------------------------------------

    def _due(self, worker: Worker) -> float | None:
        """When a worker will have taken too long, or has had time to write its stacks."""
        if worker.hang is not None:
            return worker.hang.stacks_until if not worker.hang.told_to_stop else None
        begun = self._began(worker)
        if begun is None:
            return None
        since, limit = begun
        return max(since, self._resumed_at) + limit

    def _began(self, worker: Worker) -> tuple[float, float] | None:
        """Since when a worker has been at it and how long it may; ``None``: nothing to wait for."""
        state, setup_limit, batch_limit = worker.life.state, self._config.setup_timeout_s, self._config.batch_timeout_s
        if state is WorkerState.SPAWNED and setup_limit is not None:
            return worker.spawned_at, setup_limit
        if state is WorkerState.SETTING_UP and setup_limit is not None and worker.setup_sent_at is not None:
            return worker.setup_sent_at, setup_limit
        if state is WorkerState.READY and worker.in_flight and batch_limit is not None:
            entry = worker.process.recorder.read()
            return _taken_up(worker) if entry is None else entry[1], batch_limit
        return None

    def _check_hang(self, worker: Worker, now: float) -> None:
        due = self._due(worker)
        if due is None or now < due:
            return
        if worker.hang is None:
            begun = self._began(worker)
            assert begun is not None
            worker.hang = Hang(worker.busy_with, begun[1], stacks_until=now + _STACKS_S)
            if reap.is_stopped(worker.process):
                worker.hang.stacks.append(_NO_STACKS)
                self._end(worker, worker.hang, within_s=0.0)
            else:
                self._processes.ask_for_stacks(worker)
            return
        self._end(worker, worker.hang, within_s=_TERM_S)

    def _end(self, worker: Worker, hang: Hang, within_s: float) -> None:
        hang.told_to_stop = True
        self._processes.stop(worker, now=True, within_s=within_s)

    # ---- memory ----------------------------------------------------------------------------------------

    def _read_host(self) -> None:
        high = self._config.memory_high_watermark
        if high >= 1.0:
            return
        held, reason = pressure(read_memory(), high, max(0.0, high - _LOW_BELOW_HIGH), self.hold_sources)
        if held != self.hold_sources:
            self.hold_sources = held
            what = "no new tasks are let in" if held else "new tasks are let in again"
            self._emit(events.Noticed(f"{what}: {reason}"))

    def _read_worker(self, worker: Worker, limit: int) -> None:
        if not worker.is_ready or worker.retiring is not None:
            return
        rss = process_rss(worker.process.pid)
        if rss is not None and rss > limit:
            worker.retiring = (
                f"it holds {rss / 2**20:,.0f} MiB, above worker_memory_limit_bytes ({limit / 2**20:,.0f} MiB)"
            )


def _taken_up(worker: Worker) -> float:
    """When a worker that has batches in hand, but is at none, should have taken up the next."""
    return max(worker.heard_at, min(batch.sent_at for batch in worker.in_flight.values()))
