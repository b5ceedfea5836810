"""The processes of a run: started, spoken to, watched and ended here and nowhere else."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from gpuexec import events
from gpuexec.channel.messages import ErrorHandling, Message, Start, Stop
from gpuexec.channel.wire import Receiver, Sender
from gpuexec.core.worker_lifecycle import WorkerEvent, WorkerLifecycle, WorkerState
from gpuexec.driver.state import StageState, Worker
from gpuexec.errors import ConnectionLost
from gpuexec.hardware.host import read_oom_kills
from gpuexec.plan.model import WorkerGrant
from gpuexec.processes import reap
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.spawn import WorkerProcess, worker_environment
from gpuexec.processes.watch import HasFileno, Readiness, Watch
from gpuexec.stage.stacks import STACKS_SIGNAL

_READS_OF_A_PIPE = 4
_STACKS_S = 0.2  # to write them


class WorkerProcesses:
    """All workers that are not yet reaped."""

    def __init__(
        self,
        *,
        node_id: str,
        base_env: Mapping[str, str],
        log_level: str,
        stop_timeout_s: float,
        error_handling: ErrorHandling,
    ) -> None:
        self._node_id = node_id
        self._base_env = base_env
        self._log_level = log_level
        self._error_handling = error_handling
        self._stop_timeout_s = stop_timeout_s
        self._watch = Watch()
        self._guardian = Guardian()
        self.workers: dict[int, Worker] = {}  # by pid
        self.pids_so_far: set[int] = set()

    def start(self, stage: StageState, grant: WorkerGrant, *, node_setup: bool = False) -> Worker:
        """Spawn a worker and send it its stage. Raises ``OSError`` if the system refuses a process."""
        worker_id = f"{stage.spec.name}-node-setup" if node_setup else grant.worker_id
        oom_kills = read_oom_kills()
        spawned_at = time.monotonic()
        process = WorkerProcess(worker_id, worker_environment(self._base_env, grant, stage.spec.env_vars))
        self._guardian.watch(process.pid)
        worker = Worker(
            grant=grant,
            stage=stage,
            process=process,
            life=WorkerLifecycle(worker_id),
            sender=Sender(process.sock),
            receiver=Receiver(process.sock),
            spawned_at=spawned_at,
            oom_kills_before=oom_kills,
            node_setup=node_setup,
        )
        self.workers[process.pid] = worker
        self.pids_so_far.add(process.pid)
        self._watch.add(process.pid, process)
        self.send(
            worker,
            Start(
                stage.spec.name,
                worker_id,
                self._node_id,
                grant.allocation.to_dict(),
                [os.fspath(place) for place in sys.path],
                list(grant.cpu_affinity),
                self._log_level,
                self._error_handling.to_list(),
                payloads=(stage.spec.payload,),
            ),
        )
        return worker

    def send(self, worker: Worker, message: Message) -> None:
        """Send without waiting; what the socket does not take now is sent when it does."""
        if not worker.writable:
            return
        worker.sender.put(message)
        self.push(worker)

    def push(self, worker: Worker) -> None:
        """Send on what is pending."""
        try:
            done = worker.sender.flush()
        except ConnectionLost:  # it is gone; but what it said before is still to be read
            worker.writable = False
            worker.sender.close()
            done = True
        self._watch.want_write(worker.process.pid, worker.process, wanted=not done)

    def hang_up(self, worker: Worker) -> None:
        """Everything it said is read and its end of the socket is closed: its own end will be reported."""
        worker.readable = worker.writable = False
        worker.sender.close()
        self._watch.ignore_messages(worker.process)

    def stop(self, worker: Worker, *, now: bool = False, within_s: float | None = None) -> None:
        """Tell a worker to tear down and exit. ``now``: leave the stage's code with an exception."""
        if worker.life.state not in (WorkerState.STOPPING, WorkerState.GONE):
            worker.life.advance(WorkerEvent.STOP_SENT)
            self.send(worker, Stop())
        within_s = self._stop_timeout_s if within_s is None else within_s
        worker.stop_deadline = time.monotonic() + within_s
        if now:
            os.kill(worker.process.pid, signal.SIGTERM)  # not reaped yet, so the number is its own

    def kill_overdue(self) -> None:
        """Kill workers that have not stopped in time, once they have had a moment to write their stacks."""
        now = time.monotonic()
        for worker in self.workers.values():
            if worker.stop_deadline is None or now < worker.stop_deadline or worker.overdue:
                continue
            if worker.wrote_stacks or reap.is_stopped(worker.process):
                worker.overdue = True
                reap.kill_group(worker.process, signal.SIGKILL)
            else:
                self.ask_for_stacks(worker)
                worker.stop_deadline = now + _STACKS_S

    def ask_for_stacks(self, worker: Worker) -> None:
        """Have a worker write the stacks of its threads to its output."""
        worker.wrote_stacks = True
        os.kill(worker.process.pid, STACKS_SIGNAL)  # not reaped yet, so the number is its own

    def next_deadline(self) -> float | None:
        """When `kill_overdue` has something to do, on the monotonic clock."""
        return min(
            (w.stop_deadline for w in self.workers.values() if w.stop_deadline is not None and not w.overdue),
            default=None,
        )

    def listen(self, descriptor: HasFileno, heard: Callable[[], None]) -> None:
        """Also wait for a descriptor that is not a worker's; ``heard`` is called when it is readable."""
        self._watch.listen(descriptor, heard)

    def unlisten(self, descriptor: HasFileno) -> None:
        """Stop waiting for it, before it is closed."""
        self._watch.unlisten(descriptor)

    def kill(self, worker: Worker) -> None:
        """Kill a worker and what it started, now. It is buried when its end is reported."""
        reap.kill_group(worker.process, signal.SIGKILL)

    def wait(self, timeout: float | None) -> Iterator[tuple[Worker, Readiness]]:
        """Wait and yield what happened, ends last."""
        for key, what in self._watch.wait(timeout):
            if callable(key):
                key()
                continue
            worker = self.workers.get(key)  # type: ignore[call-overload]
            if worker is not None:
                yield worker, what

    def read(self, worker: Worker) -> list[Message]:
        """Return the messages that have arrived; at the end of file, hang up."""
        worker.heard_at = time.monotonic()
        try:
            return worker.receiver.receive() if worker.readable else []
        except BlockingIOError:
            return []
        except ConnectionLost:
            self.hang_up(worker)
            return []

    def read_rest(self, worker: Worker) -> list[Message]:
        """Return everything that a worker which has exited still said."""
        messages: list[Message] = []
        while worker.readable:
            try:
                messages += worker.receiver.receive()
            except BlockingIOError:  # a process that the stage started holds the other end open
                break
            except ConnectionLost:
                self.hang_up(worker)
        return messages

    def relay_output(self, worker: Worker, emit: Callable[[events.RunEvent], None]) -> bool:
        """Report what a worker has printed; return whether there was anything and there may be more."""
        lines, still_open = worker.process.read_output()
        if not still_open:
            self._watch.ignore_output(worker.process)  # it closed its stdout and stderr
        if lines:
            if worker.hang is not None and not worker.hang.told_to_stop:
                worker.hang.stacks += lines
            emit(events.WorkerPrinted(worker.stage.spec.index, worker.id, tuple(lines)))
        return bool(lines) and still_open

    def drain_output(self, worker: Worker, emit: Callable[[events.RunEvent], None]) -> None:
        """Report what a worker that has exited still printed: one pipe full; what it started may print for ever."""
        for _ in range(_READS_OF_A_PIPE):
            if not self.relay_output(worker, emit):
                return

    def reap(self, worker: Worker) -> int:
        """Reap a worker that has exited, with whatever it started; return its exit code."""
        self._watch.remove(worker.process)
        code = reap.reap(worker.process, self._guardian)
        worker.life.advance(WorkerEvent.EXITED)
        worker.sender.close()
        worker.receiver.close()
        worker.process.close()
        del self.workers[worker.process.pid]
        return code

    def kill_all(self) -> None:
        """End every worker at once and reap it."""
        for worker in list(self.workers.values()):
            self.reap(worker)

    def close(self) -> None:
        """Release what the crew itself holds. Every worker must be buried."""
        self._watch.close()
        self._guardian.drain()
