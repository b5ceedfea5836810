"""Ends a run that does not finish: every worker may tear down, nothing is left, nothing that is done is lost.

* After a stage's exception or a worker's death, the workers are interrupted and tear down within ``stop_timeout_s``.
* After the first Ctrl-C, SIGTERM or SIGHUP, or if the run is cancelled, they may finish the batches in flight, so that
  their results count. Those that take longer than 2 s are interrupted. All of it takes less than 5 s. The second Ctrl-C
  kills the workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from gpuexec import events
from gpuexec.core.run_state import RunState
from gpuexec.core.worker import Worker
from gpuexec.driver.exceptions import is_interruption
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.processes.watch import Readiness

_DRAIN_S = 2.0  # after Ctrl-C: to finish the batches in flight …
_TEARDOWN_S = 1.5  # … and to tear down


class Shutdown:
    """Ends one run. ``handle`` applies what became ready at a worker, as in the run's own loop."""

    def __init__(
        self,
        processes: WorkerProcesses,
        state: RunState,
        *,
        handle: Callable[[Worker, Readiness], None],
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._processes = processes
        self._state = state
        self._handle = handle
        self._emit = emit

    def after(self, error: BaseException) -> None:
        """End all workers. A second Ctrl-C or SIGTERM kills them at once."""
        try:
            if is_interruption(error):
                now = time.monotonic()
                self._state.stop_all(now, within_s=_DRAIN_S + _TEARDOWN_S)
                self._wait(until=now + _DRAIN_S)
                self._state.interrupt_all(time.monotonic(), within_s=_TEARDOWN_S)
            else:
                self._state.interrupt_all(time.monotonic())
            self._wait()
        except (KeyboardInterrupt, SystemExit):
            self._processes.kill_all()

    def _wait(self, until: float | None = None) -> None:
        terminator = self._state.terminator
        while workers := self._processes.workers:
            now = time.monotonic()
            if until is not None and now >= until:
                return
            times = [t for t in (until, terminator.next_due(workers)) if t is not None]
            seconds = max(0.0, min(times) - now) if times else math.inf
            for worker, what in self._processes.wait(seconds if times else None):
                self._handle_last(worker, what)
            terminator.check(self._processes.workers, time.monotonic(), seconds)

    def _handle_last(self, worker: Worker, what: Readiness) -> None:
        try:
            self._handle(worker, what)
        except OSError as error:  # out of file descriptors, which may be why the run is ending
            self._processes.disconnect(worker)
            self._emit(events.Noticed(f"lost the final messages of worker {worker.worker_id!r}: {error}"))
