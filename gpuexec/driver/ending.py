"""How a run ends that does not finish: every worker may tear down, nothing is left, nothing that is done is lost.

* A stage's exception or a dead worker: the others are interrupted and tear down within ``stop_timeout_s``.
* The first Ctrl-C, or SIGTERM: batches in hand may be finished, so that what they did counts; those that take longer
  are interrupted. It takes 5 s at most. The second Ctrl-C kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gpuexec.channel import messages
from gpuexec.config import ExecutorConfig
from gpuexec.driver.crew import Crew
from gpuexec.driver.flow import Flow
from gpuexec.driver.staff import Staff
from gpuexec.driver.state import Worker
from gpuexec.errors import ResultNotPicklable
from gpuexec.lifecycle.workers import WorkerState
from gpuexec.observe import events
from gpuexec.supervise.watch import Happening

_DRAIN_S = 2.0  # after Ctrl-C: to finish the batches in hand …
_TEARDOWN_S = 1.5  # … and to tear down; together less than 5 s


class Ending:
    """Winds up one run."""

    def __init__(
        self, crew: Crew, flow: Flow, staff: Staff, config: ExecutorConfig, tell: Callable[[events.RunEvent], None]
    ) -> None:
        self._crew = crew
        self._flow = flow
        self._staff = staff
        self._config = config
        self._tell = tell

    def after(self, error: BaseException) -> None:
        """End every worker, as the error deserves; a second Ctrl-C ends them at once."""
        try:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                for worker in list(self._crew.workers.values()):
                    self._crew.stop(worker, within_s=_DRAIN_S + _TEARDOWN_S)
                self._wait(until=time.monotonic() + _DRAIN_S)
                self._interrupt(_TEARDOWN_S)
            else:
                self._interrupt(self._config.stop_timeout_s)
            self._wait()
        except (KeyboardInterrupt, SystemExit):
            self._crew.kill_all()

    def _interrupt(self, within_s: float) -> None:
        for worker in list(self._crew.workers.values()):
            state = worker.life.state  # one that failed waits for its orders already
            in_stage = state is WorkerState.SETTING_UP or bool(worker.in_hand)
            in_stage = in_stage and state is not WorkerState.FAILED
            self._crew.stop(worker, now=in_stage, within_s=within_s)

    def _wait(self, until: float | None = None) -> None:
        while self._crew.workers and (until is None or time.monotonic() < until):
            times = [t for t in (until, self._crew.next_deadline()) if t is not None]
            for worker, what in self._crew.wait(max(0.0, min(times) - time.monotonic()) if times else None):
                self._wind_up(worker, what)
            self._crew.kill_overdue()

    def _wind_up(self, worker: Worker, what: Happening) -> None:
        match what:
            case Happening.WRITABLE:
                self._crew.push(worker)
            case Happening.OUTPUT:
                self._crew.relay_output(worker, self._tell)
            case Happening.MESSAGE:
                self._hear_last(worker, self._crew.read)
            case Happening.EXIT:
                self._hear_last(worker, self._crew.read_rest)
                self._crew.drain_output(worker, self._tell)
                self._staff.bury(worker)

    def _hear_last(self, worker: Worker, read: Callable[[Worker], list[messages.Message]]) -> None:
        try:
            said = read(worker)
        except OSError as error:  # no descriptor is left for what it sends: maybe what ends the run
            self._crew.hang_up(worker)
            self._tell(events.Noticed(f"the last words of worker {worker.id!r} are lost: {error}"))
            return
        for message in said:
            match message:
                case messages.LogLine():
                    self._tell(events.WorkerLogged(worker.stage.spec.index, worker.id, message))
                case messages.Stopped():
                    worker.teardown_s = message.seconds
                case messages.Results():
                    self._take_results(worker, message)

    def _take_results(self, worker: Worker, results: messages.Results) -> None:
        try:
            self._flow.take_results(worker, results)
        except ResultNotPicklable as error:  # the run ends for another reason, which is the one to report
            self._tell(events.Noticed(str(error)))
