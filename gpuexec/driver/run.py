"""One run: the loop that waits, reports to the core what happened, and lets it advance."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.channel.announcement import Announcement
from gpuexec.channel.messages import Failed, Message, Results
from gpuexec.config import ExecutorConfig
from gpuexec.contract.gpu_hints import hint_for
from gpuexec.core.batch import OrderedTask
from gpuexec.core.dispatch import QueueLimits
from gpuexec.core.ports import FailureRecord
from gpuexec.core.run_state import RunState
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.termination import Terminator
from gpuexec.core.worker import Worker
from gpuexec.core.worker_time import IdleReason
from gpuexec.driver import exceptions
from gpuexec.driver.autoscaler import Autoscaler
from gpuexec.driver.blocks import InitialBlocks
from gpuexec.driver.cancellation import Cancellation
from gpuexec.driver.host_state import read_host_state
from gpuexec.driver.initial_tasks import InitialTasks, StreamedTasks
from gpuexec.driver.limits import MemoryLimits
from gpuexec.driver.observers import Observers
from gpuexec.driver.rare_collections import rare_collections
from gpuexec.driver.shutdown import Shutdown
from gpuexec.driver.spill_folder import SpillFolder
from gpuexec.driver.stored_payloads import StoredPayloads
from gpuexec.driver.telemetry import Telemetry
from gpuexec.driver.warm_start import WarmOptions
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.errors import ConfigurationError
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.model import Plan, WorkerGrant
from gpuexec.policies import ShareEnforcement, StartMethod
from gpuexec.processes.standard_streams import discard_what_cannot_be_written
from gpuexec.processes.watch import Readiness
from gpuexec.run_facts import RunFacts

if TYPE_CHECKING:
    from gpuexec.checkpoint.absent import NoCheckpoint
    from gpuexec.checkpoint.checkpoint import Checkpoint
    from gpuexec.curator.id_generator import ServedIds
    from gpuexec.driver.capsules import CapsuleKeeper
    from gpuexec.driver.gpus import RunGpus
    from gpuexec.processes.mps_daemon import MpsDaemon

_BUSY_CALLER_S = 0.01  # a caller that takes longer over its tasks keeps the run waiting
_PAUSE_S = 0.001  # shorter ones are not accounted
_SEGMENT_SHARE = 4  # a quarter of the descriptor limit may be tasks in segments, all queues together


class RunSurroundings:
    """Implements ``core.ports.Surroundings``. ``gpu_used`` returns the bytes in use by GPU UUID."""

    def __init__(
        self, processes: WorkerProcesses, capsules: CapsuleKeeper, gpu_used: Callable[[Sequence[str]], dict[str, int]]
    ) -> None:
        self._processes = processes
        self._capsules = capsules
        self._gpu_used = gpu_used

    def gpu_memory_used(self, uuids: Sequence[str]) -> dict[str, int]:
        """Return the bytes in use of each of these GPUs."""
        return self._gpu_used(uuids)

    def keep(self, record: FailureRecord) -> str | None:
        """Write a capsule and return its path."""
        lines = record.last_lines
        return self._capsules.keep(record, self._processes.last_lines(record.worker) if lines is None else lines)


class Run:
    """Executes one plan once. The run closes a ``checkpoint``.

    ``gpu_used`` reads the bytes in use by GPU UUID. ``on_grants`` is told the grants of all workers alive whenever one
    with a GPU is about to start. ``spill_folder``: for what waits between phases; ``None`` if there is only one.
    ``uses_mps``: workers with a part of a GPU get limits of MPS. ``mps_daemon``: the run's own, which it starts.
    ``served_ids``: document ids for the workers, which the run stops serving; ``None`` without.
    """

    def __init__(
        self,
        specs: Sequence[StageSpec],
        plan: Plan,
        allocator: Allocator,
        initial_tasks: InitialTasks,
        *,
        config: ExecutorConfig,
        task_seed: int | None,
        records_calls: bool,
        announcement: Announcement | None,
        node_id: str,
        base_env: Mapping[str, str],
        observers: Sequence[events.Observer],
        facts: RunFacts,
        gauge_every_s: float,
        gpu_used: Callable[[Sequence[str]], dict[str, int]],
        on_grants: Callable[[list[WorkerGrant]], None],
        capsules: CapsuleKeeper,
        checkpoint: Checkpoint | NoCheckpoint,
        cancellation: Cancellation,
        spill_folder: SpillFolder | None,
        uses_mps: bool = False,
        mps_daemon: MpsDaemon | None = None,
        served_ids: ServedIds | None = None,
    ) -> None:
        self._specs = specs
        self._plan = plan
        self._checkpoint = checkpoint
        self._served_ids = served_ids
        self._cancellation = cancellation
        self._emit = Observers(observers).emit
        self._facts = facts
        self._gauge_every_s = gauge_every_s
        self._next_gauge = 0.0
        self._advanced_at = 0.0
        self._initial_tasks = initial_tasks
        self._processes = WorkerProcesses(
            run_id=facts.run_id,
            node_id=node_id,
            base_env=base_env,
            on_grants=on_grants,
            log_level=config.log_level,
            task_seed=task_seed,
            records_calls=records_calls,
            announcement=announcement.payload if announcement is not None else None,
            uses_mps=uses_mps,
            mps_daemon=mps_daemon,
            ids_address="" if served_ids is None else served_ids.address,
            warm=WarmOptions(config.warm_idle_s, self._emit) if config.start_method == StartMethod.WARM else None,
        )
        self._telemetry = Telemetry(config.sample_interval_s, plan, self._processes, self._emit)
        lineage = checkpoint.lineage(specs)
        self._spill_folder = spill_folder
        self._payloads = StoredPayloads(spill_folder.path if spill_folder is not None else None)
        tokens = announcement.tokens if announcement is not None else ()
        self._blocks = InitialBlocks(initial_tasks, lineage, tokens, pool=self._payloads.pool)
        self._state = RunState(
            _stage_states(specs, plan),
            queue_limits=_queue_limits(config, len(specs)),
            terminator=Terminator(self._processes, [spec.limits for spec in specs]),
            max_parallel_setups=config.max_parallel_setups,
            processes=self._processes,
            payloads=self._payloads,
            surroundings=RunSurroundings(self._processes, capsules, gpu_used),
            lineage=lineage,
            make_error=self._make_error,
            emit=self._emit,
        )
        self._autoscaler = Autoscaler(
            allocator, self._state.pool, tasks_left=lambda: self._blocks.tasks_left, emit=self._emit
        )
        self._memory = MemoryLimits(config.memory_high_watermark, self._state, self._processes)
        self._announcement = announcement  # keeps its classes alive
        self._gpus: RunGpus | None = None
        self._pid = os.getpid()

    def execute(self) -> list[Any]:
        """Run to the end and return the last stage's tasks, in the order of one process working in turn.

        Raises the stage's own exception, ``WorkerDied``, or ``KeyboardInterrupt``; no process is left.
        """
        finished = [task for tasks in self.stream() for task in tasks]
        finished.sort(key=lambda task: task[0])
        return [task for _, task in finished]

    def stream(self) -> Generator[list[OrderedTask], None, None]:
        """Run, and yield the last stage's tasks as they come, each with its place in the order of results.

        While the caller is busy with them nothing new is started, so what waits stays bounded. Closing the iterator
        ends the run. Raises what `execute` raises.

        A child that the caller forks has a copy of the iterator. To close it there, or to end, does nothing to the run:
        workers and descriptors are the parent's.
        """
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(discard_what_cannot_be_written)
            cleanup.callback(self._cancellation.close)
            if self._served_ids is not None:
                cleanup.callback(self._served_ids.close)
            cleanup.callback(self._processes.close)
            cleanup.callback(self._payloads.close)
            cleanup.callback(self._processes.kill_all)
            cleanup.callback(self._telemetry.end)
            self._telemetry.begin(time.monotonic())
            try:
                names = tuple(spec.name for spec in self._specs)
                self._emit(events.RunStarted(time.monotonic(), self._plan, names, self._facts, time.time()))
                if self._checkpoint.start_note is not None:
                    self._emit(events.Noticed(self._checkpoint.start_note, "INFO"))
                self._processes.start_mps()
                self._processes.prepare(stage for stage in self._state.stages if stage.lead is stage)
                self._processes.add_reader(self._cancellation, self._cancellation.on_readable)
                self._watch_gpus(cleanup)
                if self._spill_folder is not None and self._spill_folder.warning is not None:
                    self._emit(events.Noticed(self._spill_folder.warning))
                self._memory.check(time.monotonic())  # before anything is taken in
                self._read_streamed_tasks(cleanup)
                with rare_collections():
                    for phase in self._plan.phases:
                        yield from self._run_phase([self._state.stages[p.stage_index] for p in phase.stages])
                        self._end_phase(self._state.stages[phase.stages[-1].stage_index])
                self._processes.raise_pending_signals()
                self._cancellation.check()
            except BaseException as error:
                if os.getpid() != self._pid:
                    cleanup.pop_all()
                    raise
                Shutdown(self._processes, self._state, handle=self._handle, emit=self._emit).after(error)
                stopped = isinstance(error, GeneratorExit)
                outcome = "stopped by the caller (iterator closed)" if stopped else exceptions.in_a_line(error)
                note = self._checkpoint.end_early()
                if note is not None:
                    error.add_note(note)
                    self._emit(events.Noticed(note))
                self._end(outcome, interrupted=stopped or exceptions.is_interruption(error))
                raise
            else:
                if self._checkpoint.skipped:
                    skipped = f"checkpoint: skipped {self._checkpoint.skipped} source(s) already done"
                    self._emit(events.Noticed(skipped, "INFO"))
                self._end(None)

    def _watch_gpus(self, cleanup: contextlib.ExitStack) -> None:
        """Watch the GPUs of the run for faults. NVML is loaded only for a run that uses GPUs."""
        if any(spec.uses_gpu for spec in self._specs):
            from gpuexec.driver.gpus import RunGpus

            self._gpus = RunGpus(self._plan.device_uuids(), self._processes, self._state, self._emit)
            cleanup.callback(self._gpus.close)

    def _read_streamed_tasks(self, cleanup: contextlib.ExitStack) -> None:
        tasks = self._initial_tasks
        if isinstance(tasks, StreamedTasks):
            cleanup.callback(tasks.close)
            if self._state.dispatcher.hold.is_on:
                tasks.read_ahead(0)
            tasks.start()
            self._processes.add_reader(tasks, tasks.on_readable)
            cleanup.callback(self._processes.remove_reader, tasks)

    def _end_phase(self, last: StageState) -> None:
        """Say how much of what waits for the next phase is on disk. Raises ``SpillFailed`` if the disk has failed."""
        following = self._state.dispatcher.following(last)
        if following is not None and following.spilled_bytes and self._spill_folder is not None:
            self._payloads.finish_phase()
            note = self._spill_folder.note(following.spilled_bytes, following.spec.name)
            self._emit(events.Noticed(note, "INFO"))

    def _end(self, error: str | None, *, interrupted: bool = False) -> None:
        """Report how the run ended, once the last worker is gone."""
        self._telemetry.end()
        if self._gpus is not None:
            self._gpus.report(interrupted=interrupted)
        if self._served_ids is not None:
            self._served_ids.close()  # it writes to the checkpoint
        self._checkpoint.close(error)
        self._state.times.report_gpus(time.monotonic())
        self._emit(events.RunEnded(time.monotonic(), error, interrupted, read_host_state()))

    # ---- the loop ----------------------------------------------------------------------------------------

    def _run_phase(self, active: list[StageState]) -> Iterator[list[OrderedTask]]:
        self._state.begin_phase(active)
        self._autoscaler.begin_phase(active)
        while True:
            self._advance()
            if self._state.phase_is_over:
                return
            seconds = self._seconds_to_wait()
            for worker, what in self._processes.wait(seconds):
                self._handle(worker, what)
            self._cancellation.check()
            finished = self._state.dispatcher.take_finished()
            if finished:
                if self._checkpoint.is_stored:
                    self._checkpoint.commit()  # the caller may take its time, or end the run
                handed_over_at = time.monotonic()
                yield finished
                if os.getpid() != self._pid:
                    raise ConfigurationError(
                        f"this run belongs to process {self._pid}, which has forked this one ({os.getpid()}): take its "
                        "tasks there"
                    )
                self._note_return_of_caller(handed_over_at, time.monotonic())
            began = time.monotonic()
            wrote = self._checkpoint.commit()  # the caller has the finished tasks
            now = time.monotonic()
            if wrote:
                self._note_pause(IdleReason.CHECKPOINT_WRITE, began, now)
            self._state.terminator.check(self._processes.workers, now, seconds)
            self._memory.check(now)
            self._telemetry.pass_on(now)
            self._gauge_if_due(now)

    def _note_return_of_caller(self, since: float, now: float) -> None:
        self._state.terminator.restart_timeouts(self._processes.workers, since, now)
        if now - since > _BUSY_CALLER_S:
            self._state.dispatcher.waits.restart(now)
        self._note_pause(IdleReason.CALLER_NOT_READING, since, now)

    def _note_pause(self, reason: IdleReason, since: float, now: float) -> None:
        """Account a time in which nothing was sent to workers, nor taken from them."""
        if now - since > _PAUSE_S:
            self._state.times.not_listening(self._processes.workers, reason, since, now)

    def _advance(self) -> None:
        self._blocks.feed(self._state.dispatcher)
        now = self._advanced_at = time.monotonic()
        self._state.advance(now)
        self._autoscaler.run_cycle_if_due(self._processes.workers)
        self._state.pool.permit_setups(now)

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        times = [
            self._state.dispatcher.waits.next_due(self._state.active, self._advanced_at),
            self._state.terminator.next_due(self._processes.workers),
            self._next_gauge,
            self._autoscaler.next_cycle(),
            self._state.dispatcher.next_retry(time.monotonic()),
            self._memory.next_check,
            self._telemetry.next_due,
            self._cancellation.next_poll,
        ]
        return max(0.0, min(t for t in times if t is not None) - now)

    def _handle(self, worker: Worker, what: Readiness) -> None:
        match what:
            case Readiness.OUTPUT:
                self._processes.read_output(worker, self._state.on_output)
            case Readiness.MESSAGE:
                self._on_messages(worker, self._processes.read(worker))
            case Readiness.EXIT:
                self._on_messages(worker, self._processes.read_rest(worker))
                self._processes.drain_output(worker, self._state.on_output)
                self._state.on_exit(worker, self._processes.reap(worker), time.monotonic())
                self._autoscaler.worker_ended()

    def _on_messages(self, worker: Worker, messages: Sequence[Message]) -> None:
        for message in messages:
            self._state.on_message(worker, message, time.monotonic())
            if isinstance(message, Results):
                self._autoscaler.batches_finished()

    def _make_error(self, worker: Worker, failed: Failed, task_ids: Sequence[str]) -> BaseException:
        spec = worker.members[failed.stage].spec
        index = spec.index
        producer = f"stage {self._specs[index - 1].name!r}" if index else "the caller (an initial task)"
        error = exceptions.stage_exception(
            failed,
            stage=spec.name,
            producer=producer,
            worker_id=worker.worker_id,
            task_ids=tuple(task_ids),
        )
        limits = spec.share_enforcement is not ShareEnforcement.OFF
        hint = hint_for(failed.text, worker.grant.allocation, failed.traceback, limits_share=limits)
        if hint is not None:
            error.add_note(hint)
        return error

    def _gauge_if_due(self, now: float) -> None:
        if now < self._next_gauge:
            return
        self._next_gauge = now + self._gauge_every_s
        self._state.times.report_gpus(now)
        stages = tuple(stage.gauges() for stage in self._state.stages)
        first = self._state.stages[0]
        self._emit(events.Gauged(now, stages, 0 if first.upstream_done else self._blocks.tasks_left))


def _stage_states(specs: Sequence[StageSpec], plan: Plan) -> list[StageState]:
    """Return the states of all stages, in their order. Of a group, the first has the workers."""
    states: list[StageState] = []
    for planned in (stage for phase in plan.phases for stage in phase.stages):
        lead = StageState(specs[planned.stage_index], planned)
        states.append(lead)
        states += [StageState(specs[index], lead=lead) for index in planned.fused]
    return states


def _queue_limits(config: ExecutorConfig, stages: int) -> QueueLimits:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return QueueLimits(
        tasks=config.queue_tasks,
        bytes=config.queue_bytes,
        segments=max(1, descriptors // _SEGMENT_SHARE // stages),
    )
