"""One run: the tables, the loop, and what each message does to the tables."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpuexec.channel import codec, messages
from gpuexec.channel.messages import Payload, payload_size
from gpuexec.channel.payloads import lay_down
from gpuexec.channel.segments import Range, SegmentPool, read_range
from gpuexec.config import ExecutorConfig
from gpuexec.driver import decide, outcome
from gpuexec.driver.crew import Crew
from gpuexec.driver.state import Batch, StageSpec, StageState, TaskRef, Worker
from gpuexec.errors import ResultNotPicklable, StageNotPicklable
from gpuexec.lifecycle.workers import WorkerEvent, WorkerState
from gpuexec.observe import events
from gpuexec.plan.model import Plan
from gpuexec.supervise import reap
from gpuexec.supervise.watch import Happening

_INTERRUPT_GRACE_S = 3.0  # Ctrl-C must end a run within 5 s, teardowns included
_OPEN_FILES_RESERVE = 4  # a quarter of the descriptor limit may be tasks in segments


class Run:
    """Executes one plan once. ``on_node_setup`` measures around ``setup_on_node`` (GPU memory growth)."""

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
        self._seeds = seeds
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
        )
        self._pool = SegmentPool()
        self._stages: list[StageState] = []
        self._active: list[StageState] = []
        self._results: list[tuple[tuple[int, ...], Any]] = []
        self._seed_numbers = itertools.count()
        self._batch_ids = itertools.count()
        self._next_gauge = 0.0
        self._most_segments = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _OPEN_FILES_RESERVE

    def execute(self) -> list[Any]:
        """Run to the end and return the last stage's tasks, in the order of one process working in turn.

        Raises the stage's own exception, ``WorkerDied``, or ``KeyboardInterrupt``; no process is left.
        """
        self._tell(events.RunStarted(time.monotonic(), self._plan, tuple(s.name for s in self._specs)))
        try:
            self._stages = [
                StageState(self._specs[p.stage_index], p) for phase in self._plan.phases for p in phase.stages
            ]
            for phase in self._plan.phases:
                self._run_phase([self._stages[p.stage_index] for p in phase.stages])
        except BaseException as error:
            self._abort(_INTERRUPT_GRACE_S if isinstance(error, KeyboardInterrupt) else self._config.stop_timeout_s)
            self._tell(events.RunEnded(time.monotonic(), f"{type(error).__name__}: {error}"))
            raise
        else:
            self._tell(events.RunEnded(time.monotonic(), None))
        finally:
            self._crew.kill_all()
            self._crew.close()
            self._pool.close()
        self._results.sort(key=lambda result: result[0])
        return [task for _, task in self._results]

    # ---- the loop ----------------------------------------------------------------------------------

    def _run_phase(self, active: list[StageState]) -> None:
        self._active = active
        if active[0].spec.index > 0:
            active[0].upstream_done = True  # the phase before put everything in its queue
        while True:
            self._decide(active)
            if all(stage.finished for stage in active) and not self._crew.workers:
                return
            for worker, what in self._crew.wait(self._timeout()):
                self._handle(worker, what)
            self._crew.kill_overdue()
            self._gauge_if_due()

    def _decide(self, active: list[StageState]) -> None:
        if active[0].spec.index == 0:
            self._feed_seeds(active[0])
        for stage in active:
            if not stage.finished and decide.is_finished(stage.view()):
                self._finish(stage)
        for stage in active:
            if not stage.finished:
                self._start_workers(stage)
                self._send_batches(stage)
        self._permit_setups()

    def _timeout(self) -> float | None:
        times = [t for t in (self._crew.next_deadline(), self._next_gauge or None) if t is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _feed_seeds(self, stage: StageState) -> None:
        while not stage.upstream_done and self._has_room(stage):
            number = next(self._seed_numbers)
            task = next(self._seeds, None)
            if task is None:
                stage.upstream_done = True
                return
            try:
                payload = lay_down(codec.encode(task), self._pool)
            except Exception as error:
                raise StageNotPicklable(
                    f"initial task {number} ({task!r}) cannot be sent to a worker: {error}"
                ) from error
            stage.queue.push(TaskRef(task.task_id, (number,), payload, time.monotonic()))

    def _finish(self, stage: StageState) -> None:
        stage.finished = True
        for worker in stage.workers.values():
            self._crew.stop(worker)
        following = self._following(stage)
        if following is not None:
            following.upstream_done = True

    def _start_workers(self, stage: StageState) -> None:
        if not stage.node_ready and not stage.workers and stage.spare:
            grant = stage.spare[0]
            self._gpu_before[stage.spec.index] = self._gpu_used([g.uuid for g in grant.allocation.gpus])
            self._adopt(self._crew.start(stage, grant, node_setup=True))
        count, _ = decide.workers_to_start(stage.view())
        for _ in range(count):
            self._adopt(self._crew.start(stage, stage.spare.popleft()))

    def _adopt(self, worker: Worker) -> None:
        worker.stage.workers[worker.id] = worker
        self._tell(events.WorkerStarted(worker.spawned_at, worker.stage.spec.index, worker.id, worker.process.pid))

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

    # ---- tasks -------------------------------------------------------------------------------------

    def _following(self, stage: StageState) -> StageState | None:
        index = stage.spec.index + 1
        return self._stages[index] if index < len(self._stages) else None

    def _has_room(self, stage: StageState) -> bool:
        """Whether more may be put before a stage; always, while the stage's own phase is yet to come."""
        if stage not in self._active:
            return True
        queue, config, batch = stage.queue, self._config, stage.spec.batch_size
        return (
            len(queue) < max(config.queue_tasks, batch)
            and (queue.bytes < config.queue_bytes or len(queue) < batch)
            and queue.segments < max(self._most_segments, batch)
        )

    def _send_batches(self, stage: StageState) -> None:
        following = self._following(stage)
        if not stage.queue or (following is not None and not self._has_room(following)):
            return
        ready = [w for w in stage.workers.values() if w.is_ready]
        limit = decide.credit(stage.batch_s, stage.batch_bytes)
        dealt = decide.share_out(decide.batches_ready(stage.view()), [len(worker.in_hand) for worker in ready], limit)
        for worker, count in zip(ready, dealt, strict=True):
            if count:
                self._send_work(stage, worker, count)

    def _send_work(self, stage: StageState, worker: Worker, count: int) -> None:
        now = time.monotonic()
        ids: list[int] = []
        counts: list[int] = []
        payloads: list[Payload] = []
        for _ in range(count):
            tasks = stage.queue.take(stage.spec.batch_size)
            batch = Batch(
                batch_id=next(self._batch_ids),
                task_ids=tuple(task.task_id for task in tasks),
                paths=[task.path for task in tasks],
                input_bytes=sum(payload_size(task.payload) for task in tasks),
                queued_s=sum(now - task.queued_at for task in tasks) / len(tasks),
                sent_at=now,
            )
            worker.in_hand[batch.batch_id] = batch
            ids.append(batch.batch_id)
            counts.append(len(tasks))
            payloads += [task.payload for task in tasks]
        self._crew.send(worker, messages.Work(ids, counts, payloads=tuple(payloads)))

    def _take_results(self, worker: Worker, results: messages.Results) -> None:
        at = 0
        now = time.monotonic()
        for batch_id, count, figures in zip(results.batch_ids, results.counts, results.figures, strict=True):
            batch = worker.in_hand[batch_id]
            for i in range(at, at + count):
                parent = results.parents[i]
                above = batch.paths[parent] if parent >= 0 else min(batch.paths)
                path = (*above, len(batch.outputs))
                batch.outputs.append(TaskRef(results.task_ids[i], path, results.payloads[i], now))
            at += count
            if figures is not None:
                self._complete(worker, batch, messages.Figures(*figures), now)

    def _complete(self, worker: Worker, batch: Batch, figures: messages.Figures, now: float) -> None:
        stage = worker.stage
        del worker.in_hand[batch.batch_id]
        stage.done_tasks += len(batch.task_ids)
        stage.note_pace(figures.receive_s + figures.process_s + figures.send_s, batch.input_bytes)
        following = self._following(stage)
        if following is not None:
            for task in batch.outputs:
                self._put_by(following, task)
        else:
            self._results += [(task.path, self._decode_result(stage, task)) for task in batch.outputs]
        self._tell(
            events.BatchFinished(
                now,
                stage.spec.index,
                worker.id,
                batch.batch_id,
                len(batch.outputs),
                batch.queued_s,
                now - batch.sent_at,
                figures,
            )
        )

    def _put_by(self, stage: StageState, task: TaskRef) -> None:
        """Queue a task. What waits for a later phase may be far more than there are descriptors."""
        full = stage.queue.segments >= self._most_segments and stage not in self._active
        if full and isinstance(task.payload, Range):
            task.payload = read_range(task.payload)
        stage.queue.push(task)

    def _decode_result(self, stage: StageState, task: TaskRef) -> Any:
        # Copied out of its segment: a caller may keep a million results, but not a million descriptors.
        try:
            if isinstance(task.payload, Range):
                return codec.decode(read_range(task.payload), in_place=True)
            return codec.decode(task.payload, in_place=False)
        except Exception as error:
            raise ResultNotPicklable(
                f"task {task.task_id} returned by stage {stage.spec.name!r} was pickled but cannot be unpickled "
                f"here: {type(error).__name__}: {error}"
            ) from error

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
                self._take_results(worker, message)
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
        raise outcome.worker_died(
            stage=worker.stage.spec.name,
            worker_id=worker.id,
            exit_code=code,
            cause=self._cause_of_death(worker, code),
            phase=phase,
            task_ids=task_ids,
            last=tuple(worker.process.last_lines),
        )

    def _cause_of_death(self, worker: Worker, code: int) -> str:
        if worker.stop_deadline is not None and time.monotonic() >= worker.stop_deadline:
            return f"it did not stop within stop_timeout_s = {self._config.stop_timeout_s:g} s and was killed"
        after, before = reap.read_oom_kills(), worker.oom_kills_before
        kills = after - before if after is not None and before is not None else None
        return reap.describe_exit(code, oom_kills=kills)

    def _drain_output(self, worker: Worker) -> None:
        while True:
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
