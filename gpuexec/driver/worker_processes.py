"""The worker processes of a run: started, spoken to, read, signalled and reaped here and nowhere else."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gpuexec.channel.messages import Message, Start
from gpuexec.channel.payload import Payload
from gpuexec.channel.wire import Receiver, Sender
from gpuexec.core.ports import Started
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import Exit, Worker
from gpuexec.curator.ray_actors import ID_GENERATOR_VARIABLE
from gpuexec.driver.warm_start import Group, NotYet, WarmOptions, WarmStart
from gpuexec.errors import ConnectionLost, StartRefused, TemplateLost
from gpuexec.hardware.host import read_oom_kills
from gpuexec.observe.logging_state import how_workers_log
from gpuexec.planning.model import WorkerGrant
from gpuexec.processes import interrupts, reap
from gpuexec.processes.exit_watch import offers_pidfd
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.interpreter import working_directory
from gpuexec.processes.kept_templates import own_variables
from gpuexec.processes.output_lines import OutputItem
from gpuexec.processes.refusal import why_refused
from gpuexec.processes.spawn import WorkerProcess, spawn
from gpuexec.processes.template import Template
from gpuexec.processes.variables import PORT_VARIABLE, PortRanges, worker_environment
from gpuexec.processes.watch import HasFileno, Readiness, Watch
from gpuexec.records import MutableRecord
from gpuexec.stage.stacks import STACKS_SIGNAL

if TYPE_CHECKING:
    from gpuexec.processes.mps_daemon import MpsDaemon

OnOutput = Callable[[Worker, Sequence[OutputItem]], None]


class Handle(MutableRecord):
    """A worker's process, and the two ends of the conversation with it.

    ``readable``: more messages may arrive. ``writable``: it still takes messages.
    """

    worker: Worker
    process: WorkerProcess
    sender: Sender
    receiver: Receiver
    oom_kills_before: int | None
    readable: bool = True
    writable: bool = True


class WorkerProcesses:
    """All workers that are not reaped yet. Implements ``core.ports.Processes``."""

    def __init__(
        self,
        *,
        run_id: str,
        node_id: str,
        base_env: Mapping[str, str],
        on_grants: Callable[[list[WorkerGrant]], None],
        log_level: str,
        task_seed: int | None,
        records_calls: bool = False,
        announcement: Payload | None = None,
        uses_mps: bool = False,
        mps_daemon: MpsDaemon | None = None,
        ids_address: str = "",
        warm: WarmOptions | None = None,
    ) -> None:
        self._run_id = run_id
        self._node_id = node_id
        self._base_env = base_env
        self._ids_address = ids_address
        self._folder = working_directory()  # the caller may change it while the run goes on
        self._on_grants = on_grants
        self._task_seed = task_seed
        self._records_calls = records_calls
        self._announcement = announcement
        self._uses_mps = uses_mps
        self._mps_daemon = mps_daemon
        self._watch = Watch()
        try:
            self._guardian = Guardian()
        except OSError as error:
            self._watch.close()
            raise StartRefused(f"the run cannot start: {why_refused(error)}") from error
        self._ports = PortRanges()
        self._handles: dict[int, Handle] = {}  # by the worker's number
        # How workers log: it must not change during a run, since templates are shared by those that log alike.
        self._log = how_workers_log(log_level)
        self._warm: WarmStart | None = None
        if warm is not None and offers_pidfd():  # nothing else tells of the exit of another process's child
            self._warm = WarmStart(warm, self._watch, self._guardian, self._log, self._folder)
        self.pids_so_far: set[int] = set()

    @property
    def workers(self) -> list[Worker]:
        """The workers that are not reaped yet."""
        return [handle.worker for handle in self._handles.values()]

    def pid(self, worker: Worker) -> int:
        """Return the pid of a worker that is not reaped yet."""
        return self._handles[worker.number].process.pid

    def last_lines(self, worker: Worker) -> tuple[str, ...]:
        """Return what a worker printed and logged last; nothing once it is reaped."""
        handle = self._handles.get(worker.number)
        return tuple(handle.process.last_lines) if handle is not None else ()

    def start_mps(self) -> None:
        """Start the run's own daemon of MPS, if it has one; `close` ends it. Raises ``ResourcesError``."""
        if self._mps_daemon is not None:
            self._guardian.watch_mps(self._mps_daemon.program, str(self._mps_daemon.folder))
            self._mps_daemon.start()

    # ---- the core's port -------------------------------------------------------------------------------

    def prepare(self, stages: Iterable[StageState]) -> None:
        """Begin to import the modules of stages, leads of their groups, if workers are to be forked."""
        if self._warm is not None:
            self._warm.begin(
                (
                    Group.of(stage),
                    self._environment(stage.spec, grant),
                    grant.allocation,
                )
                for stage in stages
                for grant in list(stage.pending_grants)[:1]
            )

    def start(self, worker: Worker) -> Started | None:
        """Start a worker and send it its stages; return ``None`` if that must wait until its modules are imported.

        Raises ``StartRefused`` if the system refuses.
        """
        grant, specs = worker.grant, [member.spec for member in worker.members]
        env = self._environment(specs[0], grant)
        template = None
        if self._warm is not None:
            try:
                template = self._warm.template_for(Group.of(worker.stage), env, grant.allocation)
            except NotYet:
                return None
        message = Start(
            stages=[spec.name for spec in specs],
            worker_id=f"{worker.worker_id}-{self._run_id}",
            node_id=self._node_id,
            allocation=grant.allocation.to_dict(),
            sys_path=[os.fspath(entry) for entry in sys.path if isinstance(entry, str | os.PathLike)],
            cpu_affinity=list(grant.cpu_affinity),
            log_level=self._log[0],
            error_handling=specs[0].error_handling.to_list(),  # fused stages have the same
            logging_levels=self._log[1],
            logging_disabled=self._log[2],
            task_seed=self._task_seed,
            records_calls=self._records_calls,
            share_enforcement=specs[0].share_enforcement,
            max_concurrency=specs[0].max_concurrency,
            batch_timeout_s=specs[0].limits.batch_timeout_s,
            shards=[spec.shard for spec in specs] if any(spec.shard for spec in specs) else None,
            payloads=(
                *(spec.payload for spec in specs),
                *(() if self._announcement is None else (self._announcement,)),
            ),
        )
        if grant.allocation.gpus:
            # setup_on_node runs with the grant of its stage's first worker
            self._on_grants(list({w.worker_id: w.grant for w in [*self.workers, worker]}.values()))
        oom_kills = read_oom_kills()
        spawned_at = time.monotonic()
        try:
            # No template has these: a library that reads all variables when it is imported there has not read them.
            if PORT_VARIABLE not in env:
                env[PORT_VARIABLE] = str(self._ports.take())
            env[ID_GENERATOR_VARIABLE] = self._ids_address
            process, is_forked = self._new_process(worker, env, template)
            self._introduce(worker, process, message, oom_kills)
        except OSError as error:
            raise StartRefused(why_refused(error)) from error
        return Started(process.pid, spawned_at, is_forked)

    def _environment(self, spec: StageSpec, grant: WorkerGrant) -> dict[str, str]:
        return worker_environment(
            self._base_env, grant.allocation, spec.env_vars, enforcement=spec.share_enforcement, mps=self._uses_mps
        )

    def _new_process(
        self, worker: Worker, env: Mapping[str, str], template: Template | None
    ) -> tuple[WorkerProcess, bool]:
        """Fork a worker from its template or, if it has none, spawn it. Return also which it was."""
        if template is not None:
            # None: it is not set. The template may have been started by a run that set it.
            variables = {name: env.get(name) for name in own_variables(worker.grant.allocation)}
            try:
                return WorkerProcess(worker.worker_id, functools.partial(template.fork, variables=variables)), True
            except TemplateLost:
                assert self._warm is not None
                self._warm.note_losses()
        start = functools.partial(spawn, env=env, folder=self._folder)
        return WorkerProcess(worker.worker_id, start), False

    def _introduce(self, worker: Worker, process: WorkerProcess, message: Start, oom_kills_before: int | None) -> None:
        """Watch a new process and send it its stage. If that fails, nothing is left of it."""
        self._handles[worker.number] = Handle(
            worker, process, Sender(process.sock), Receiver(process.sock), oom_kills_before=oom_kills_before
        )
        self.pids_so_far.add(process.pid)
        try:
            self._guardian.watch(process.pid)
            self._watch.add(worker.number, process)
            self.send(worker, message)
        except BaseException:  # nobody else knows of the process yet
            self.reap(worker)
            raise

    def send(self, worker: Worker, message: Message, /) -> None:
        """Send without waiting; what the socket does not take now is sent when it does."""
        handle = self._handles[worker.number]
        if handle.writable:
            handle.sender.put(message)
            self._flush(handle)

    def interrupt(self, worker: Worker) -> None:
        """Make the stage's code raise in the worker."""
        self._signal(worker, signal.SIGTERM)

    def ask_for_stacks(self, worker: Worker) -> bool:
        """Have a worker print the stacks of its threads. Return False if it is stopped and cannot."""
        if reap.is_stopped(self._handles[worker.number].process):
            return False
        self._signal(worker, STACKS_SIGNAL)
        return True

    def kill(self, worker: Worker) -> None:
        """Kill a worker and what it started. It is reaped when its exit is reported."""
        reap.kill_group(self._handles[worker.number].process, signal.SIGKILL)

    def current_batch(self, worker: Worker) -> tuple[int, float] | None:
        """Return the id of the batch it is processing and since when, from its flight recorder."""
        current = self._handles[worker.number].process.recorder.read()
        return None if current is None else (current.batch_id, current.since)

    def _signal(self, worker: Worker, number: int) -> None:
        os.kill(self._handles[worker.number].process.pid, number)  # not reaped yet, so the pid is its own

    # ---- reading ---------------------------------------------------------------------------------------

    def add_reader(self, descriptor: HasFileno, on_readable: Callable[[], None]) -> None:
        """Also wait for a descriptor that is not a worker's; ``on_readable`` is called when it is readable."""
        self._watch.add_reader(descriptor, on_readable)

    def remove_reader(self, descriptor: HasFileno) -> None:
        """Stop waiting for it, before it is closed."""
        self._watch.remove_reader(descriptor)

    def raise_pending_signals(self) -> None:
        """Raise a signal that has arrived since the last wait, while the run can still end as interrupted."""
        with interrupts.signals_delivered():
            pass

    def wait(self, timeout: float | None) -> Iterator[tuple[Worker, Readiness]]:
        """Wait at most ``timeout`` seconds and yield what became ready, exits last.

        What is pending for a worker is sent on here.
        """
        if self._warm is not None and (left := self._warm.seconds_left()) is not None:
            timeout = left if timeout is None else min(left, timeout)
        for key, what in self._watch.wait(timeout):
            if callable(key):
                key()
                continue
            handle = self._handles.get(key)  # type: ignore[call-overload]
            if handle is None:
                continue
            if what is Readiness.WRITABLE:
                if handle.writable:  # unless it was found dead in this very turn
                    self._flush(handle)
            else:
                yield handle.worker, what
        if self._warm is not None:  # once their answers are read, which may have waited
            self._warm.check()

    def read(self, worker: Worker) -> list[Message]:
        """Return the messages that have arrived; at end of file, disconnect."""
        handle = self._handles[worker.number]
        try:
            return handle.receiver.receive() if handle.readable else []
        except BlockingIOError:
            return []
        except ConnectionLost:
            self._disconnect(handle)
            return []

    def read_rest(self, worker: Worker) -> list[Message]:
        """Return all messages left of a worker that has exited."""
        handle = self._handles[worker.number]
        messages: list[Message] = []
        while handle.readable:
            try:
                messages += handle.receiver.receive()
            except BlockingIOError:  # a process that the stage started holds the other end open
                break
            except ConnectionLost:
                self._disconnect(handle)
        return messages

    def disconnect(self, worker: Worker) -> None:
        """Stop reading and writing messages: its exit will follow. Harmless once it is reaped."""
        handle = self._handles.get(worker.number)
        if handle is not None:
            self._disconnect(handle)

    def read_output(self, worker: Worker, on_output: OnOutput) -> None:
        """Pass on what a worker has printed and logged."""
        process = self._handles[worker.number].process
        items, still_open = process.read_output()
        if not still_open:
            self._watch.ignore_output(process)  # it closed its stdout and stderr
        if items:
            on_output(worker, items)

    def drain_output(self, worker: Worker, on_output: OnOutput) -> None:
        """Pass on what a worker that has exited left in its pipe."""
        items = self._handles[worker.number].process.read_rest()
        if items:
            on_output(worker, items)

    def _flush(self, handle: Handle) -> None:
        try:
            done = handle.sender.flush()
        except ConnectionLost:  # the worker is gone, but what it sent before is still to be read
            handle.writable = False
            handle.sender.close()
            done = True
        if handle.readable:  # else the socket is not watched any more
            self._watch.watch_writable(handle.worker.number, handle.process, enabled=not done)

    def _disconnect(self, handle: Handle) -> None:
        handle.readable = handle.writable = False
        handle.sender.close()
        self._watch.ignore_messages(handle.process)

    # ---- reaping ---------------------------------------------------------------------------------------

    def reap(self, worker: Worker) -> Exit:
        """Reap a worker that has exited, or kill it, with whatever it started. Return how it ended."""
        handle = self._handles[worker.number]
        process = handle.process
        current = process.recorder.read()
        self._watch.remove(process)
        ended = reap.reap(process, self._guardian)
        handle.sender.close()
        handle.receiver.close()
        process.close()
        del self._handles[worker.number]  # last: until here, an exception leaves it to be reaped again
        after, before = read_oom_kills(), handle.oom_kills_before
        kills = after - before if after is not None and before is not None else None
        if ended.lost_template and self._warm is not None:
            self._warm.note_losses()
        return Exit(
            ended.code,
            ended.cause or reap.describe_exit(ended.code, oom_kills=kills, rss_peak_bytes=worker.rss_peak_bytes),
            current.batch_id if current is not None else None,
            tuple(process.last_lines),
            current.stage if current is not None else 0,
            current.task if current is not None else 0,
            cpu_s=ended.cpu_s,
            max_rss_bytes=ended.max_rss_bytes,
            lost_template=ended.lost_template,
        )

    def kill_all(self) -> None:
        """Kill and reap every worker at once."""
        for worker in self.workers:
            self.reap(worker)

    def close(self) -> None:
        """Release what this object itself holds. Every worker must be reaped."""
        if self._warm is not None:
            self._warm.close()
        self._watch.close()
        if self._mps_daemon is not None:
            self._mps_daemon.close()
            self._guardian.forget_mps()
        self._guardian.close()
