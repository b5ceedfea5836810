"""One run: the loop, and what each message does to the tables."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.channel import messages
from gpuexec.config import ExecutorConfig
from gpuexec.core import decide
from gpuexec.core.worker_lifecycle import WorkerEvent, WorkerState
from gpuexec.driver import exceptions
from gpuexec.driver.autoscaler import Autoscaler
from gpuexec.driver.flow import Flow
from gpuexec.driver.initial_tasks import InitialTasks, StreamedTasks
from gpuexec.driver.limits import Limits
from gpuexec.driver.lineage import Lineage
from gpuexec.driver.pool import WorkerPool
from gpuexec.driver.recovery import FailureRecord, Recovery
from gpuexec.driver.shutdown import Shutdown
from gpuexec.driver.state import StageSpec, StageState, Worker
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.hardware.host import read_oom_kills
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import Plan
from gpuexec.processes import reap
from gpuexec.processes.watch import Readiness

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint
    from gpuexec.driver.gpus import RunGpus

_COLLECT_AFTER = 100_000  # objects allocated more than freed

Placed = tuple[bytes, Any]  # a finished task and its place in the order of results


class Run:
    """Executes one plan once.

    ``gpu_used`` reads the bytes in use by GPU UUID; ``keep`` stores a failed batch and returns where; a ``checkpoint``
    is the run's to end.
    """

    def __init__(
        self,
        specs: Sequence[StageSpec],
        plan: Plan,
        room: Allocator,
        initial_tasks: InitialTasks,
        *,
        config: ExecutorConfig,
        node_id: str,
        base_env: Mapping[str, str],
        observers: Sequence[events.Observer],
        gauge_every_s: float | None,
        gpu_used: Callable[[Sequence[str]], dict[str, int]],
        keep: Callable[[FailureRecord], str | None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._specs = specs
        self._plan = plan
        self._config = config
        self._observers = observers
        self._gauge_every_s = gauge_every_s
        self._processes = WorkerProcesses(
            node_id=node_id,
            base_env=base_env,
            log_level=config.log_level,
            stop_timeout_s=config.stop_timeout_s,
            error_handling=messages.ErrorHandling(
                continue_on_error=config.on_task_failure == "quarantine" or bool(config.retry_on),
                retire_on=config.retire_on,
                split_on_oom=config.split_on_oom,
            ),
        )
        self._stages = [StageState(specs[s.stage_index], s) for phase in plan.phases for s in phase.stages]
        lineage = Lineage(checkpoint, specs) if checkpoint is not None else None
        self._initial_tasks = initial_tasks
        self._flow = Flow(
            self._stages, initial_tasks, config, send=self._processes.send, emit=self._emit, lineage=lineage
        )
        self._recovery = Recovery(config, self._stages, self._flow, emit=self._emit, keep=keep)
        self._pool = WorkerPool(self._stages, self._processes, config, emit=self._emit, gpu_used=gpu_used)
        self._autoscaler = Autoscaler(room, self._pool, tasks_left=lambda: self._flow.tasks_left, emit=self._emit)
        self._limits = Limits(config, self._processes, self._emit)
        self._gpus: RunGpus | None = None
        self._next_gauge = 0.0

    def execute(self) -> list[Any]:
        """Run to the end and return the last stage's tasks, in the order of one process working in turn.

        Raises the stage's own exception, ``WorkerDied``, or ``KeyboardInterrupt``; no process is left.
        """
        finished = [placed for some in self.stream(keep_undelivered=True) for placed in some]
        finished.sort(key=lambda placed: placed[0])
        return [task for _, task in finished]

    def stream(self, *, keep_undelivered: bool = False) -> Generator[list[Placed], None, None]:
        """Run, and yield the last stage's tasks as they come, each with its place in the order of results.

        While the caller is busy with them nothing new is started, so what waits stays bounded. Closing the iterator
        ends the run. Raises what `execute` raises. ``keep_undelivered``: a source also counts as done whose tasks the
        caller did not get, since the run ended before.
        """
        try:
            self._emit(events.RunStarted(time.monotonic(), self._plan, tuple(s.name for s in self._specs)))
            self._watch_gpus()
            if isinstance(self._initial_tasks, StreamedTasks):
                self._initial_tasks.start()
                self._processes.listen(self._initial_tasks, self._initial_tasks.heard)
            with _rare_collections():
                for phase in self._plan.phases:
                    yield from self._run_phase([self._stages[p.stage_index] for p in phase.stages])
        except BaseException as error:
            Shutdown(self._processes, self._flow, self._pool, self._config, self._emit).after(error)
            if self._checkpoint is not None and not keep_undelivered:
                self._checkpoint.drop_uncommitted()
            self._end("the caller took no more" if isinstance(error, GeneratorExit) else exceptions.in_a_line(error))
            raise
        else:
            if self._checkpoint is not None and self._checkpoint.skipped:
                self._emit(events.Noticed(f"checkpoint: {self._checkpoint.skipped} source(s) were done before", "INFO"))
            self._end(None)
        finally:
            self._processes.kill_all()
            if isinstance(self._initial_tasks, StreamedTasks):
                if self._initial_tasks.fileno() >= 0:
                    self._processes.unlisten(self._initial_tasks)
                self._initial_tasks.close()
            if self._gpus is not None:
                self._gpus.close()
            self._processes.close()
            self._flow.close()

    def _watch_gpus(self) -> None:
        if any(spec.uses_gpu for spec in self._specs):
            from gpuexec.driver.gpus import RunGpus, uuids_of

            self._gpus = RunGpus(uuids_of(self._plan), self._processes, self._pool, self._emit)

    def _end(self, error: str | None) -> None:
        """Close the books, once the last worker is gone."""
        if self._gpus is not None:
            self._gpus.report()
        if self._checkpoint is not None:
            self._checkpoint.end(error)
        self._emit(events.RunEnded(time.monotonic(), error))

    # ---- the loop ----------------------------------------------------------------------------------

    def _run_phase(self, active: list[StageState]) -> Iterator[list[Placed]]:
        self._flow.begin_phase(active)
        self._autoscaler.begin_phase(active)
        while True:
            self._decide(active)
            if all(stage.finished for stage in active) and not self._processes.workers:
                return
            for worker, what in self._processes.wait(self._timeout()):
                self._handle(worker, what)
            finished = self._flow.take_finished()
            if finished:
                handed_over_at = time.monotonic()
                yield finished
                self._limits.resume(handed_over_at)
            if self._checkpoint is not None:  # the caller has them
                self._checkpoint.commit()
            self._processes.kill_overdue()
            self._limits.check(self._processes.workers.values())
            self._flow.hold_sources = self._limits.hold_sources
            self._gauge_if_due()

    def _decide(self, active: list[StageState]) -> None:
        self._flow.feed_initial_tasks()
        for stage in active:
            if not stage.finished and decide.is_finished(stage.view()):
                self._finish(stage)
        for stage in active:
            if not stage.finished:
                self._pool.retire(stage)
                self._pool.start(stage)
                self._flow.send_batches(stage)
        self._autoscaler.run_cycle_if_due(self._processes.workers.values())
        self._pool.permit_setups()

    def _timeout(self) -> float | None:
        now = time.monotonic()
        times = [self._processes.next_deadline(), self._next_gauge or None, self._autoscaler.next_cycle()]
        times.append(self._limits.next_check(self._processes.workers.values()))
        return max(0.0, min(t for t in times if t is not None) - now)

    def _finish(self, stage: StageState) -> None:
        stage.finished = True
        for worker in stage.workers.values():
            self._processes.stop(worker)
        following = self._flow.following(stage)
        if following is not None:
            following.upstream_done = True

    # ---- what workers say and do -------------------------------------------------------------------

    def _handle(self, worker: Worker, what: Readiness) -> None:
        match what:
            case Readiness.WRITABLE:
                self._processes.push(worker)
            case Readiness.OUTPUT:
                self._processes.relay_output(worker, self._emit)
            case Readiness.MESSAGE:
                for message in self._processes.read(worker):
                    self._hear(worker, message)
            case Readiness.EXIT:
                self._see_exit(worker)

    def _hear(self, worker: Worker, message: messages.Message) -> None:
        now = time.monotonic()
        match message:
            case messages.Results():
                self._flow.take_results(worker, message)
                self._autoscaler.batches_finished()
            case messages.LogLine():
                worker.process.last_lines.append(f"{message.level}: {message.text}")
                self._emit(events.WorkerLogged(worker.stage.spec.index, worker.id, message))
            case messages.Booted():
                worker.life.advance(WorkerEvent.BOOTED)
                spawn_s, load_s = message.began - worker.spawned_at, message.loaded - message.began
                self._emit(events.WorkerLoaded(now, worker.stage.spec.index, worker.id, spawn_s, load_s))
            case messages.Ready():
                worker.life.advance(WorkerEvent.SETUP_DONE)
                worker.stage.note_startup(now - worker.spawned_at)
                self._recovery.setup_done(worker)
                self._emit(events.WorkerReady(now, worker.stage.spec.index, worker.id, message.seconds))
            case messages.NodeReady():
                worker.life.advance(WorkerEvent.SETUP_DONE)
                worker.set_up_node, worker.teardown_s = True, 0.0
                self._processes.stop(worker)
            case messages.Stopped():
                worker.teardown_s = message.seconds
            case messages.Failed():
                self._stage_raised(worker, message)

    def _stage_raised(self, worker: Worker, failed: messages.Failed) -> None:
        if worker.cordoned is not None:
            return  # its GPU failed under it; it is being killed, and its batches go to others
        if failed.halted:
            worker.life.advance(WorkerEvent.STAGE_RAISED)
        if failed.phase == "teardown":  # its batches are done: no reason to lose what the run has made
            self._emit(events.Noticed(f"teardown() of worker {worker.id!r} failed: {failed.text}\n{failed.traceback}"))
            return
        before = worker.stage.spec.index - 1
        producer = f"stage {self._specs[before].name!r}" if before >= 0 else "the caller (an initial task)"
        self._recovery.stage_raised(worker, failed, producer)
        if failed.halted:
            self._recovery.requeue(worker)
            self._processes.stop(worker)

    def _see_exit(self, worker: Worker) -> None:
        for message in self._processes.read_rest(worker):
            self._hear(worker, message)
        self._processes.drain_output(worker, self._emit)
        phase, state = worker.busy_with, worker.life.state
        task_ids = [task_id for batch in worker.in_flight.values() for task_id in batch.task_ids]
        at_work, cause = worker.at_work, self._cause_of_death(worker)
        code = self._pool.reap(worker)
        self._autoscaler.worker_ended()
        if state is WorkerState.STOPPING and worker.teardown_s is not None:
            return
        if worker.cordoned is not None:
            self._recovery.requeue(worker)
            self._pool.check_places()
            return
        died = exceptions.worker_died(
            stage=worker.stage.spec.name,
            worker_id=worker.id,
            exit_code=code,
            cause=str(worker.hang) if worker.hang else cause(code),
            phase=worker.hang.phase if worker.hang else phase,
            task_ids=task_ids,
            last=tuple(worker.process.last_lines),
        )
        if worker.hang is not None or state is not WorkerState.STOPPING or worker.node_setup:
            self._recovery.worker_died(worker, died, at_work=at_work, timed_out=worker.hang is not None)
        else:
            # It was to stop and had nothing in hand: no reason to lose what the run has made.
            self._emit(events.Noticed(str(died)))

    def _cause_of_death(self, worker: Worker) -> Callable[[int], str]:
        if worker.overdue:
            limit = self._config.stop_timeout_s
            return lambda _: f"it did not stop within stop_timeout_s = {limit:g} s and was killed"
        after, before = read_oom_kills(), worker.oom_kills_before
        kills = after - before if after is not None and before is not None else None
        return lambda code: reap.describe_exit(code, oom_kills=kills, rss_peak_bytes=worker.rss_peak_bytes)

    # ---- telling -----------------------------------------------------------------------------------

    def _gauge_if_due(self) -> None:
        now = time.monotonic()
        if self._gauge_every_s is None or now < self._next_gauge:
            return
        self._next_gauge = now + self._gauge_every_s
        self._emit(events.Gauged(now, tuple(stage.gauges() for stage in self._stages)))

    def _emit(self, event: events.RunEvent) -> None:
        for observer in self._observers:
            observer.on_event(event)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector look rarely: it walks every waiting task and result, which hold no cycles.

    With Python's own thresholds it takes a fifth of a run's time on 30,000 tiny tasks. A threshold that the
    caller has raised further, or a collector that is switched off, stays as it is.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _COLLECT_AFTER:
        yield
        return
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
