"""One run: its stages, tasks and workers, and the calls by which the driver reports what happened.

Invariants
1. Every task is in exactly one place: a queue, a requeued batch, a batch in flight, its outputs, or the results.
2. A batch's outputs enter the next queue all at once, when the batch is complete.
3. Nothing is sent to a stage whose next queue is full, so what waits is bounded by the queues plus what is in flight.
4. When a worker dies, only the batch it was processing is blamed. Its other batches go before everything that waits.
5. A batch keeps its inputs until it is complete, and no worker changes them: a second attempt gets the same.
6. Every change of a worker's state goes through its transition table (``worker.TRANSITIONS``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.channel.messages import Booted, Failed, LogLine, Message, NodeReady, PrintsFor, Ready, Results, Stopped
from gpuexec.contract.phases import StagePhase
from gpuexec.core import decide
from gpuexec.core.dispatch import Dispatcher, QueueLimits
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.core.pool import WorkerPool
from gpuexec.core.ports import Payloads, Processes, Surroundings
from gpuexec.core.recovery import Recovery
from gpuexec.core.stage import StageState
from gpuexec.core.termination import Terminator
from gpuexec.core.worker import UNEXPECTED, EndReason, Exit, ExitReport, Worker, WorkerEvent, WorkerState
from gpuexec.core.worker_time import IdleReason, WorkerTimes
from gpuexec.errors import ResultNotPicklable

_STILL_RUNNING = "a thread of the stage, or an exit handler, went on. End it in teardown(), or make the thread a daemon"

MakeError = Callable[[Worker, Failed, Sequence[str]], BaseException]


class RunState:
    """All tables of a run, and what changes them. Every ``now`` is of the monotonic clock, in seconds.

    ``make_error`` makes the exception that the caller sees for a failed worker and the ids of its tasks.
    """

    def __init__(
        self,
        stages: Sequence[StageState],
        *,
        queue_limits: QueueLimits,
        terminator: Terminator,
        max_parallel_setups: int,
        processes: Processes,
        payloads: Payloads,
        surroundings: Surroundings,
        lineage: Lineage | NoLineage,
        make_error: MakeError,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self.stages = stages
        self.active: Sequence[StageState] = ()
        self.terminator = terminator
        self.times = WorkerTimes(emit)
        self.dispatcher = Dispatcher(
            stages, queue_limits, processes=processes, payloads=payloads, lineage=lineage, emit=emit, times=self.times
        )
        self.pool = WorkerPool(
            stages,
            processes=processes,
            terminator=terminator,
            surroundings=surroundings,
            max_parallel_setups=max_parallel_setups,
            emit=emit,
            times=self.times,
        )
        self._recovery = Recovery(stages, dispatcher=self.dispatcher, surroundings=surroundings, emit=emit)
        self._make_error = make_error
        self._emit = emit
        self._ending = False

    # ---- the loop's own steps ----------------------------------------------------------------------------

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """Run these stages from now on."""
        self.active = active
        self.dispatcher.begin_phase(active)

    def advance(self, now: float) -> None:
        """Finish stages, stop and start workers, and send batches. Raises ``StartRefused``: see
        `WorkerPool.start_workers`."""
        for stage in self.active:
            if not stage.finished and decide.is_finished(stage.view()):
                self._finish(stage, now)
        for stage in self.active:
            if not stage.finished:
                self.pool.stop_drained(stage, now)
                self.pool.start_workers(stage, now)
                self.dispatcher.send_batches(stage, now)
            self._note_idle(stage, now)

    def _note_idle(self, stage: StageState, now: float) -> None:
        """Account the time of workers that do nothing."""
        reason = None
        for worker in stage.workers.values():
            if worker.in_flight or worker.is_starting:
                continue
            if worker.is_ready:
                reason = reason or self.dispatcher.why_idle(stage, now)
                self.times.idle(worker, reason, now)
            else:
                self.times.idle(worker, IdleReason.DRAINING, now)

    @property
    def phase_is_over(self) -> bool:
        """Whether all stages of the phase are finished and their workers gone."""
        return all(stage.finished for stage in self.active) and not any(self.pool.workers)

    def _finish(self, stage: StageState, now: float) -> None:
        for member in stage.members:
            member.finished = True
        for worker in stage.workers.values():
            self.terminator.stop(worker, EndReason.STAGE_DONE, now)
        following = self.dispatcher.following(stage)
        if following is not None:
            following.upstream_done = True

    # ---- the end of a run that does not finish -------------------------------------------------------------

    def stop_all(self, now: float, *, within_s: float) -> None:
        """End the run, but let every worker finish the batches it has, within ``within_s`` seconds."""
        self._end(now)
        for worker in list(self.pool.workers):
            self.terminator.stop(worker, EndReason.RUN_ENDED, now, within_s=within_s)

    def interrupt_all(self, now: float, *, within_s: float | None = None) -> None:
        """End the run: every worker leaves the stage's code at once and tears down within ``within_s`` seconds.

        ``None``: within its stage's ``stop_timeout_s``.
        """
        self._end(now)
        for worker in list(self.pool.workers):
            # An idle worker is outside the stage's code, and so is one whose stage has raised.
            busy = worker.is_setting_up or (bool(worker.in_flight) and worker.failed_at is None)
            self.terminator.stop(worker, EndReason.RUN_ENDED, now, interrupt=busy, within_s=within_s)

    def _end(self, now: float) -> None:
        self._ending = True
        self.dispatcher.end()
        for worker in self.pool.workers:
            if not worker.in_flight:
                self.times.idle(worker, IdleReason.DRAINING, now)

    # ---- what workers say ----------------------------------------------------------------------------------

    def on_message(self, worker: Worker, message: Message, now: float) -> None:
        """Apply a worker's message. Raises the error that ends the run, if it is to end."""
        worker.heard_at = now
        index = worker.stage.spec.index
        match message:
            case Results():
                self._on_results(worker, message, now)
            case Booted():
                worker.advance(WorkerEvent.BOOTED)
                worker.booted_at = now
                spawn_s, load_s = message.began - worker.spawned_at, message.loaded - message.began
                self._emit(events.WorkerLoaded(now, index, worker.worker_id, spawn_s, load_s))
            case Ready():
                worker.advance(WorkerEvent.SETUP_DONE)
                worker.ready_at = now
                self.times.out_of_work(worker, now)
                if worker.state in (WorkerState.READY, WorkerState.DRAINING):  # not: after its timeout, or told to stop
                    worker.stage.group_times.add_startup(now - worker.spawned_at)
                    self._recovery.setup_done(worker)
                    self._emit(events.WorkerReady(now, index, worker.worker_id, message.seconds))
            case NodeReady():
                keeps_reason = self._ending or worker.end_reason is EndReason.CORDONED
                worker.advance(WorkerEvent.SETUP_DONE, None if keeps_reason else EndReason.NODE_READY)
                worker.ready_at, worker.teardown_s = now, 0.0  # it has nothing to tear down
                if not self._ending:
                    self.terminator.stop(worker, None, now)
            case Stopped():
                worker.teardown_s = message.seconds
            case Failed():
                self._on_failed(worker, message, now)

    def _on_results(self, worker: Worker, results: Results, now: float) -> None:
        try:
            raised = self.dispatcher.take_results(worker, results, now)
        except ResultNotPicklable as error:
            if not self._ending:
                raise
            self._emit(events.Noticed(str(error)))  # the run ends for another reason, which is the one to report
            return
        for task in raised if not self._ending else ():
            self._recovery.task_raised(worker, task, functools.partial(self._make_error, worker, task[1]), now)

    def _on_failed(self, worker: Worker, failed: Failed, now: float) -> None:
        if failed.output is not None:
            assert failed.batch_id is not None
            worker.in_flight[failed.batch_id].failures[failed.output] = failed  # judged when the batch is complete
            return
        if self._ending or worker.end_reason is EndReason.CORDONED:
            return  # the worker is leaving, and its batches are requeued or dropped
        worker.failed_at = now if failed.halted else None
        if failed.phase is StagePhase.TEARDOWN or worker.stage.finished:
            # The stage's work is done, or this worker's: no reason to lose what the run has made.
            what = f"{failed.phase} of worker {worker.worker_id!r} failed"
            self._emit(events.Noticed(f"{what}: {failed.text}\n{failed.traceback}"))
            return
        if failed.halted:
            worker.advance(WorkerEvent.STAGE_RAISED, EndReason.STAGE_RAISED)
        self._recovery.stage_raised(worker, failed, functools.partial(self._make_error, worker, failed), now)
        if failed.halted:
            self._recovery.requeue_batches(worker)
            self.terminator.stop(worker, None, now)
        self.times.lost(worker, now)

    # ---- what happens to processes ---------------------------------------------------------------------------

    def on_exit(self, worker: Worker, exit_: Exit, now: float) -> None:
        """Take note of a worker that was reaped. Raises the error that ends the run, if it is to end.

        What follows is decided by ``EXIT_RULES``. An exit after `Stopped` is always as expected, if it comes in time.
        """
        if exit_.lost_template and worker.timeout is None and worker.exit_rule() is UNEXPECTED:
            worker.advance(WorkerEvent.KILL_SENT, EndReason.TEMPLATE_LOST)  # its batches are not at fault
        rule, phase, killed = worker.exit_rule(), worker.phase, worker.state is WorkerState.KILLED
        stopped_cleanly = worker.teardown_s is not None and worker.end_reason is not None
        self.times.ended(worker, now)
        self.pool.remove(worker, exit_, now)
        if self._ending:
            return
        if rule.report is ExitReport.WORKER_DIED and not stopped_cleanly:
            phase = worker.timeout.phase if worker.timeout is not None else phase
            self._recovery.worker_died(worker, exit_, phase, now)
            return
        if rule.requeues:
            self._recovery.requeue_batches(worker)
        if rule.report is ExitReport.NOTICE and (killed or not stopped_cleanly):
            # It was to stop and had nothing in flight: no reason to lose what the run has made.
            within = f"within stop_timeout_s = {worker.stage.spec.limits.stop_timeout_s:g} s and was killed"
            if stopped_cleanly:
                cause = f"it was done, but did not exit {within}: {_STILL_RUNNING}"
            else:
                cause = f"it did not stop {within}" if killed else exit_.cause
            died = self._recovery.describe_death(worker, exit_, phase=StagePhase.TEARDOWN, cause=cause)
            self._emit(events.Noticed(str(died)))
        if worker.end_reason is EndReason.CORDONED:
            self.pool.check_gpus_left()

    def cordon(self, devices: Sequence[str], fault: str) -> None:
        """Take failed GPUs out of use. Raises ``GpusLost`` if a stage has no GPU left and the run is not ending."""
        self.pool.cordon(devices, fault)
        if not self._ending:
            self.pool.check_gpus_left()

    def on_output(self, worker: Worker, items: Sequence[str | LogLine | PrintsFor]) -> None:
        """Take note of what a worker printed (lines) and logged (records), in order; a hung one prints its stacks."""
        worker_id = worker.worker_id
        lines: list[str] = []
        for item in items:
            if isinstance(item, str):
                lines.append(item)
                continue
            self._emit_printed(worker, lines)
            lines = []
            if isinstance(item, PrintsFor):
                worker.prints_for = item.stage
            else:
                self._emit(events.WorkerLogged(worker.members[item.stage].spec.index, worker_id, item))
        self._emit_printed(worker, lines)

    def _emit_printed(self, worker: Worker, lines: list[str]) -> None:
        if not lines:
            return
        if worker.timeout is not None and worker.state is WorkerState.HUNG:
            worker.timeout.stacks += lines
        self._emit(events.WorkerPrinted(worker.members[worker.prints_for].spec.index, worker.worker_id, tuple(lines)))
