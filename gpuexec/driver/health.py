"""Watches what a run lives on: batches that hang, workers that grow, the host's memory, the GPUs.

Each check is a reading of a clock or a counter and a decision; what follows from it is `Run`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from gpuexec.config import ExecutorConfig
from gpuexec.driver.crew import Crew
from gpuexec.driver.state import Hang, Worker
from gpuexec.hardware.host_memory import pressure, process_rss, read_memory
from gpuexec.lifecycle.workers import WorkerState
from gpuexec.observe import events
from gpuexec.worker.stacks import STACKS_SIGNAL

_STACKS_S = 0.5  # to write them
_TERM_S = 2.0  # for teardown; then it is killed
_READ_EVERY_S = 1.0  # memory, of host and workers
_LOW_BELOW_HIGH = 0.05  # of the limit: sources are let go on that far below the high-water mark


class Health:
    """One run's checks; ``check`` is called at every turn of the loop, ``next_check`` says when at the latest."""

    def __init__(self, config: ExecutorConfig, crew: Crew, tell: Callable[[events.RunEvent], None]) -> None:
        self._config = config
        self._crew = crew
        self._tell = tell
        self._next_reading = 0.0
        self.hold_sources = False

    def check(self, workers: Iterable[Worker]) -> None:
        """Act on workers that take too long; read memory if it is time."""
        now = time.monotonic()
        if self._config.batch_timeout_s is not None or self._config.setup_timeout_s is not None:
            for worker in workers:
                self._check_hang(worker, now)
        if now >= self._next_reading:
            self._next_reading = now + _READ_EVERY_S
            self._read_host()
            if self._config.worker_memory_limit is not None:
                for worker in workers:
                    self._read_worker(worker, self._config.worker_memory_limit)

    def next_check(self, workers: Iterable[Worker], now: float) -> float:
        """When to look again, on the monotonic clock."""
        times = [self._next_reading]
        if self._config.batch_timeout_s is not None or self._config.setup_timeout_s is not None:
            times += [due for worker in workers if (due := self._due(worker, now)) is not None]
        return min(times)

    # ---- hangs -----------------------------------------------------------------------------------------

    def _due(self, worker: Worker, now: float) -> float | None:
        """When a worker will have taken too long, or has had time to write its stacks."""
        if worker.hang is not None:
            return worker.hang.stacks_until if not worker.hang.told_to_stop else None
        begun = self._began(worker)
        if begun is None:
            return None
        since, limit = begun
        return (now if since is None else since) + limit

    def _began(self, worker: Worker) -> tuple[float | None, float] | None:
        """Since when a worker has been at it and how long it may; ``None``: nothing to wait for."""
        if worker.life.state is WorkerState.SETTING_UP and self._config.setup_timeout_s is not None:
            return worker.setup_sent_at, self._config.setup_timeout_s
        if worker.life.state is WorkerState.READY and worker.in_hand and self._config.batch_timeout_s is not None:
            entry = worker.process.recorder.read()
            return (entry[1] if entry else None), self._config.batch_timeout_s
        return None

    def _check_hang(self, worker: Worker, now: float) -> None:
        due = self._due(worker, now)
        if due is None or now < due:
            return
        if worker.hang is None:
            begun = self._began(worker)
            assert begun is not None
            worker.hang = Hang(worker.busy_with, begun[1], stacks_until=now + _STACKS_S)
            os.kill(worker.process.pid, STACKS_SIGNAL)
            return
        worker.hang.told_to_stop = True
        self._crew.stop(worker, now=True, within_s=_TERM_S)

    # ---- memory ----------------------------------------------------------------------------------------

    def _read_host(self) -> None:
        high = self._config.memory_high_water
        if high >= 1.0:
            return
        held, reason = pressure(read_memory(), high, max(0.0, high - _LOW_BELOW_HIGH), self.hold_sources)
        if held != self.hold_sources:
            self.hold_sources = held
            what = "no new tasks are let in" if held else "new tasks are let in again"
            self._tell(events.Noticed(f"{what}: {reason}"))

    def _read_worker(self, worker: Worker, limit: int) -> None:
        if not worker.is_ready or worker.retiring is not None:
            return
        rss = process_rss(worker.process.pid)
        if rss is not None and rss > limit:
            worker.retiring = f"it holds {rss / 2**20:,.0f} MiB, above worker_memory_limit ({limit / 2**20:,.0f} MiB)"
