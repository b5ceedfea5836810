"""How a run ends that does not finish: every worker may tear down, nothing is left, nothing that is done is lost.

* A stage's exception or a dead worker: the others are interrupted and tear down within ``stop_timeout_s``.
* The first Ctrl-C, or SIGTERM: batches in hand may be finished, so that what they did counts; those that take longer
  are interrupted. It takes 5 s at most. The second Ctrl-C kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gpuexec import events
from gpuexec.channel import messages
from gpuexec.config import ExecutorConfig
from gpuexec.core.worker_lifecycle import WorkerState
from gpuexec.driver.flow import Flow
from gpuexec.driver.pool import WorkerPool
from gpuexec.driver.state import Worker
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.errors import ResultNotPicklable
from gpuexec.processes.watch import Readiness

_DRAIN_S = 2.0  # after Ctrl-C: to finish the batches in hand …
_TEARDOWN_S = 1.5  # … and to tear down; together less than 5 s


class Shutdown:
    """Winds up one run."""

    def __init__(
        self,
        processes: WorkerProcesses,
        flow: Flow,
        pool: WorkerPool,
        config: ExecutorConfig,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._processes = processes
        self._flow = flow
        self._pool = pool
        self._config = config
        self._emit = emit

    def after(self, error: BaseException) -> None:
        """End every worker, as the error deserves; a second Ctrl-C ends them at once."""
        try:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                for worker in list(self._processes.workers.values()):
                    self._processes.stop(worker, within_s=_DRAIN_S + _TEARDOWN_S)
                self._wait(until=time.monotonic() + _DRAIN_S)
                self._interrupt(_TEARDOWN_S)
            else:
                self._interrupt(self._config.stop_timeout_s)
            self._wait()
        except (KeyboardInterrupt, SystemExit):
            self._processes.kill_all()

    def _interrupt(self, within_s: float) -> None:
        for worker in list(self._processes.workers.values()):
            state = worker.life.state  # one that failed waits for its orders already
            in_stage = state is WorkerState.SETTING_UP or bool(worker.in_flight)
            in_stage = in_stage and state is not WorkerState.FAILED
            self._processes.stop(worker, now=in_stage, within_s=within_s)

    def _wait(self, until: float | None = None) -> None:
        while self._processes.workers and (until is None or time.monotonic() < until):
            times = [t for t in (until, self._processes.next_deadline()) if t is not None]
            for worker, what in self._processes.wait(max(0.0, min(times) - time.monotonic()) if times else None):
                self._handle_last(worker, what)
            self._processes.kill_overdue()

    def _handle_last(self, worker: Worker, what: Readiness) -> None:
        match what:
            case Readiness.WRITABLE:
                self._processes.push(worker)
            case Readiness.OUTPUT:
                self._processes.relay_output(worker, self._emit)
            case Readiness.MESSAGE:
                self._hear_last(worker, self._processes.read)
            case Readiness.EXIT:
                self._hear_last(worker, self._processes.read_rest)
                self._processes.drain_output(worker, self._emit)
                self._pool.reap(worker)

    def _hear_last(self, worker: Worker, read: Callable[[Worker], list[messages.Message]]) -> None:
        try:
            said = read(worker)
        except OSError as error:  # no descriptor is left for what it sends: maybe what ends the run
            self._processes.hang_up(worker)
            self._emit(events.Noticed(f"the last words of worker {worker.id!r} are lost: {error}"))
            return
        for message in said:
            match message:
                case messages.LogLine():
                    self._emit(events.WorkerLogged(worker.stage.spec.index, worker.id, message))
                case messages.Stopped():
                    worker.teardown_s = message.seconds
                case messages.Results():
                    self._take_results(worker, message)

    def _take_results(self, worker: Worker, results: messages.Results) -> None:
        try:
            self._flow.take_results(worker, results)
        except ResultNotPicklable as error:  # the run ends for another reason, which is the one to report
            self._emit(events.Noticed(str(error)))
