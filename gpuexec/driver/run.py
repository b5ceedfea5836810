"""One run: the tables, the loop, and what each message does to the tables."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpuexec.channel import messages
from gpuexec.config import ExecutorConfig
from gpuexec.driver import decide, outcome
from gpuexec.driver.crew import Crew
from gpuexec.driver.flow import Flow
from gpuexec.driver.state import StageSpec, StageState, Worker
from gpuexec.lifecycle.workers import WorkerEvent, WorkerState
from gpuexec.observe import events
from gpuexec.plan.model import Plan
from gpuexec.supervise import reap
from gpuexec.supervise.watch import Happening

_COLLECT_AFTER = 100_000  # objects allocated more than freed
_READS_OF_A_PIPE = 4
_INTERRUPT_GRACE_S = 3.0  # Ctrl-C must end a run within 5 s, teardowns included


class Run:
    """Executes one plan once. ``gpu_used`` reads the bytes in use by GPU UUID, around ``setup_on_node``."""

    def __init__(
        self,
        specs: Sequence[StageSpec],
        plan: Plan,
        seeds: Iterator[Any],
        *,
        config: ExecutorConfig,
        node_id: str,
        base_env: Mapping[str, str],
        observers: Sequence[events.Observer],
        gauge_every_s: float | None,
        gpu_used: Callable[[Sequence[str]], dict[str, int]],
    ) -> None:
        self._specs = specs
        self._plan = plan
        self._config = config
        self._observers = observers
        self._gauge_every_s = gauge_every_s
        self._gpu_used = gpu_used
        self._gpu_before: dict[int, dict[str, int]] = {}
        self._crew = Crew(
            node_id=node_id,
            base_env=base_env,
            log_level=config.log_level,
            stop_timeout_s=config.stop_timeout_s,
            conduct={"goes_on": False, "retire_on": [], "split_on_oom": False},
        )
        self._stages = [StageState(specs[s.stage_index], s) for phase in plan.phases for s in phase.stages]
        self._flow = Flow(self._stages, seeds, config, send=self._crew.send, tell=self._tell)
        self._next_gauge = 0.0

    def execute(self) -> list[Any]:
        """Run to the end and return the last stage's tasks, in the order of one process working in turn.

        Raises the stage's own exception, ``WorkerDied``, or ``KeyboardInterrupt``; no process is left.
        """
        finished = [placed for some in self.stream() for placed in some]
        finished.sort(key=lambda placed: placed[0])
        return [task for _, task in finished]

    def stream(self) -> Iterator[list[tuple[bytes, Any]]]:
        """Run, and yield the last stage's tasks as they come, each with its place in the order of results.

        While the caller is busy with them nothing new is started, so what waits stays bounded. Closing the iterator
        ends the run. Raises what `execute` raises.
        """
        self._tell(events.RunStarted(time.monotonic(), self._plan, tuple(s.name for s in self._specs)))
        try:
            with _rare_collections():
                for phase in self._plan.phases:
                    yield from self._run_phase([self._stages[p.stage_index] for p in phase.stages])
        except BaseException as error:
            self._abort(_INTERRUPT_GRACE_S if isinstance(error, KeyboardInterrupt) else self._config.stop_timeout_s)
            ended = "the caller took no more" if isinstance(error, GeneratorExit) else outcome.in_a_line(error)
            self._tell(events.RunEnded(time.monotonic(), ended))
            raise
        else:
            self._tell(events.RunEnded(time.monotonic(), None))
        finally:
            self._crew.kill_all()
            self._crew.close()
            self._flow.close()

    # ---- the loop ----------------------------------------------------------------------------------

    def _run_phase(self, active: list[StageState]) -> Iterator[list[tuple[bytes, Any]]]:
        self._flow.begin_phase(active)
        while True:
            self._decide(active)
            if all(stage.finished for stage in active) and not self._crew.workers:
                return
            for worker, what in self._crew.wait(self._timeout()):
                self._handle(worker, what)
            finished = self._flow.take_finished()
            if finished:
                yield finished
            self._crew.kill_overdue()
            self._gauge_if_due()

    def _decide(self, active: list[StageState]) -> None:
        self._flow.feed_seeds()
        for stage in active:
            if not stage.finished and decide.is_finished(stage.view()):
                self._finish(stage)
        for stage in active:
            if not stage.finished:
                self._start_workers(stage)
                self._flow.send_batches(stage)
        self._permit_setups()

    def _timeout(self) -> float | None:
        times = [t for t in (self._crew.next_deadline(), self._next_gauge or None) if t is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _finish(self, stage: StageState) -> None:
        stage.finished = True
        for worker in stage.workers.values():
            self._crew.stop(worker)
        following = self._flow.following(stage)
        if following is not None:
            following.upstream_done = True

    def _start_workers(self, stage: StageState) -> None:
        if not stage.node_ready and not stage.workers and stage.spare:
            grant = stage.spare[0]
            self._gpu_before[stage.spec.index] = self._gpu_used([g.uuid for g in grant.allocation.gpus])
            self._adopt(self._crew.start(stage, grant, node_setup=True), decide.StartReason.NODE)
        count, why = decide.workers_to_start(stage.view())
        for _ in range(count):
            self._adopt(self._crew.start(stage, stage.spare.popleft()), why)

    def _adopt(self, worker: Worker, why: decide.StartReason) -> None:
        worker.stage.workers[worker.id] = worker
        stage, pid = worker.stage.spec.index, worker.process.pid
        self._tell(events.WorkerStarted(worker.spawned_at, stage, worker.id, pid, str(why)))

    def _permit_setups(self) -> None:
        crew = self._crew.workers.values()
        waiting = [w for w in crew if w.life.state is WorkerState.LOADED and (w.node_setup or w.stage.node_ready)]
        if not waiting:
            return
        running = [w.gpus for w in crew if w.life.state is WorkerState.SETTING_UP]
        chosen = decide.next_setups([(w.id, w.gpus) for w in waiting], running, self._config.max_parallel_setups)
        for worker in waiting:
            if worker.id in chosen:
                worker.life.advance(WorkerEvent.SETUP_SENT)
                self._crew.send(worker, messages.SetUpOnNode() if worker.node_setup else messages.SetUp())

    # ---- what workers say and do -------------------------------------------------------------------

    def _handle(self, worker: Worker, what: Happening) -> None:
        match what:
            case Happening.WRITABLE:
                self._crew.push(worker)
            case Happening.OUTPUT:
                self._relay_output(worker)
            case Happening.MESSAGE:
                for message in self._crew.read(worker):
                    self._hear(worker, message)
            case Happening.EXIT:
                self._see_exit(worker)

    def _hear(self, worker: Worker, message: messages.Message) -> None:
        now = time.monotonic()
        match message:
            case messages.Results():
                self._flow.take_results(worker, message)
            case messages.LogLine():
                worker.process.last_lines.append(f"{message.level}: {message.text}")
                self._tell(events.WorkerLogged(worker.stage.spec.index, worker.id, message))
            case messages.Booted():
                worker.life.advance(WorkerEvent.BOOTED)
                spawn_s, load_s = message.began - worker.spawned_at, message.loaded - message.began
                self._tell(events.WorkerLoaded(now, worker.stage.spec.index, worker.id, spawn_s, load_s))
            case messages.Ready():
                worker.life.advance(WorkerEvent.SETUP_DONE)
                worker.stage.startup_s = worker.stage.startup_s or now - worker.spawned_at
                self._tell(events.WorkerReady(now, worker.stage.spec.index, worker.id, message.seconds))
            case messages.NodeReady():
                self._node_is_set_up(worker)
            case messages.Stopped():
                worker.teardown_s = message.seconds
            case messages.Failed():
                self._stage_raised(worker, message)

    def _node_is_set_up(self, worker: Worker) -> None:
        worker.life.advance(WorkerEvent.SETUP_DONE)
        worker.teardown_s = 0.0
        self._crew.stop(worker)

    def _stage_raised(self, worker: Worker, failed: messages.Failed) -> None:
        worker.life.advance(WorkerEvent.STAGE_RAISED)
        stage = worker.stage
        batch = worker.in_hand.get(failed.batch_id) if failed.batch_id is not None else None
        task_ids = batch.task_ids if batch else ()
        if batch is not None:
            now = time.monotonic()
            self._tell(
                events.BatchFailed(
                    now,
                    stage.spec.index,
                    worker.id,
                    batch.batch_id,
                    task_ids,
                    now - batch.sent_at,
                    failed.text,
                )
            )
        before = stage.spec.index - 1
        raise outcome.stage_exception(
            failed,
            stage=stage.spec.name,
            producer=f"stage {self._specs[before].name!r}" if before >= 0 else "the caller (an initial task)",
            worker_id=worker.id,
            task_ids=task_ids,
        )

    def _relay_output(self, worker: Worker) -> None:
        lines, still_open = worker.process.read_output()
        if not still_open:
            self._crew.ignore_output(worker)
        if lines:
            self._tell(events.WorkerPrinted(worker.stage.spec.index, worker.id, tuple(lines)))

    def _see_exit(self, worker: Worker) -> None:
        for message in self._crew.read_rest(worker):
            self._hear(worker, message)
        self._drain_output(worker)
        phase, state = worker.busy_with, worker.life.state
        task_ids = [task_id for batch in worker.in_hand.values() for task_id in batch.task_ids]
        code = self._forget(worker)
        if state is WorkerState.STOPPING and worker.teardown_s is not None:
            return
        died = outcome.worker_died(
            stage=worker.stage.spec.name,
            worker_id=worker.id,
            exit_code=code,
            cause=self._cause_of_death(worker, code),
            phase=phase,
            task_ids=task_ids,
            last=tuple(worker.process.last_lines),
        )
        if state is not WorkerState.STOPPING or worker.node_setup:
            raise died
        # Its stage is finished and nothing was in its hands: no reason to lose what the run has made.
        self._tell(events.Noticed(str(died)))

    def _cause_of_death(self, worker: Worker, code: int) -> str:
        if worker.stop_deadline is not None and time.monotonic() >= worker.stop_deadline:
            return f"it did not stop within stop_timeout_s = {self._config.stop_timeout_s:g} s and was killed"
        after, before = reap.read_oom_kills(), worker.oom_kills_before
        kills = after - before if after is not None and before is not None else None
        return reap.describe_exit(code, oom_kills=kills, rss_peak_bytes=worker.rss_peak_bytes)

    def _drain_output(self, worker: Worker) -> None:
        """Read what a worker that has exited still printed: one pipe full; what it started may print for ever."""
        for _ in range(_READS_OF_A_PIPE):
            lines, still_open = worker.process.read_output()
            if lines:
                self._tell(events.WorkerPrinted(worker.stage.spec.index, worker.id, tuple(lines)))
            if not lines or not still_open:
                return

    def _forget(self, worker: Worker) -> int:
        code = self._crew.bury(worker)
        stage = worker.stage
        del stage.workers[worker.id]
        if worker.node_setup and worker.teardown_s is not None:
            self._note_node_setup(stage, worker)
        self._tell(events.WorkerStopped(time.monotonic(), stage.spec.index, worker.id, code, worker.teardown_s))
        return code

    def _note_node_setup(self, stage: StageState, worker: Worker) -> None:
        """Only once its process is gone do the workers set up: its GPU memory is free by then, or leaked."""
        stage.node_ready = True
        before = self._gpu_before.pop(stage.spec.index, {})
        after = self._gpu_used(tuple(before))
        growth = tuple((uuid, after[uuid] - before[uuid]) for uuid in before if after.get(uuid, 0) > before[uuid])
        now = time.monotonic()
        self._tell(events.NodeSetUp(now, stage.spec.index, now - worker.spawned_at, growth))

    # ---- ending and telling --------------------------------------------------------------------------

    def _abort(self, grace_s: float) -> None:
        """Let every worker tear down, within ``grace_s``; a second Ctrl-C ends them at once."""
        try:
            for worker in list(self._crew.workers.values()):
                state = worker.life.state  # one that failed waits for its orders already
                busy = state is WorkerState.SETTING_UP or (state is WorkerState.READY and bool(worker.in_hand))
                self._crew.stop(worker, now=busy, within_s=grace_s)
            while self._crew.workers:
                for worker, what in self._crew.wait(self._timeout()):
                    self._wind_up(worker, what)
                self._crew.kill_overdue()
        except KeyboardInterrupt:
            self._crew.kill_all()

    def _wind_up(self, worker: Worker, what: Happening) -> None:
        match what:
            case Happening.WRITABLE:
                self._crew.push(worker)
            case Happening.OUTPUT:
                self._relay_output(worker)
            case Happening.MESSAGE:
                self._hear_last(worker, self._crew.read(worker))
            case Happening.EXIT:
                self._hear_last(worker, self._crew.read_rest(worker))
                self._drain_output(worker)
                self._forget(worker)

    def _hear_last(self, worker: Worker, said: Sequence[messages.Message]) -> None:
        for message in said:
            if isinstance(message, messages.LogLine):
                self._tell(events.WorkerLogged(worker.stage.spec.index, worker.id, message))
            elif isinstance(message, messages.Stopped):
                worker.teardown_s = message.seconds

    def _gauge_if_due(self) -> None:
        now = time.monotonic()
        if self._gauge_every_s is None or now < self._next_gauge:
            return
        self._next_gauge = now + self._gauge_every_s
        self._tell(events.Gauged(now, tuple(self._gauges(stage) for stage in self._stages)))

    @staticmethod
    def _gauges(stage: StageState) -> events.StageGauges:
        workers = stage.workers.values()
        return events.StageGauges(
            done=stage.done_tasks,
            queued=len(stage.queue),
            in_flight=sum(len(batch.task_ids) for worker in workers for batch in worker.in_hand.values()),
            workers=sum(worker.is_ready for worker in workers),
            starting=sum(not worker.is_ready for worker in workers),
            finished=stage.finished,
        )

    def _tell(self, event: events.RunEvent) -> None:
        for observer in self._observers:
            observer.see(event)


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
