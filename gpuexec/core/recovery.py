"""What is done about batches that fail and workers that end unexpectedly: applies ``retries`` and ``breaker``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.channel.messages import Failed
from gpuexec.contract.gpu_hints import hint_for
from gpuexec.contract.phases import StagePhase
from gpuexec.core import decide
from gpuexec.core.attempts import AttemptEvent, BatchLifecycle
from gpuexec.core.batch import Batch
from gpuexec.core.breaker import Breaker
from gpuexec.core.dispatch import Dispatcher, RaisedTask
from gpuexec.core.ports import FailureRecord, Surroundings
from gpuexec.core.retries import Action, DecisionReason, Failure, FailureKind, RetryPolicy, judge_setup
from gpuexec.core.stage import StageState
from gpuexec.core.worker import Exit, Worker
from gpuexec.errors import TooManyQuarantined, WorkerDied
from gpuexec.policies import ShareEnforcement

HOW_TO_REPLAY = "to run it again: gpuexec replay "
MakeError = Callable[[], BaseException]


class Recovery:
    """Judges failures by the policy and puts batches where they belong.

    Its methods raise the error that ends the run, if it is to end. The error is made only then, since making it may
    mean unpickling an exception.
    """

    def __init__(
        self,
        stages: Sequence[StageState],
        *,
        dispatcher: Dispatcher,
        surroundings: Surroundings,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._surroundings = surroundings
        self._emit = emit
        self._hinted: set[int] = set()  # stages, by index
        self._first_quarantined: dict[int, tuple[str, MakeError]] = {}
        # By lead: workers are lost to a whole group.
        self._breakers = {
            s.spec.index: Breaker(
                s.spec.name, s.spec.policy, decide.MAX_FUSED_TASKS if s.is_fused else s.spec.batch_size
            )
            for s in stages
            if s.lead is s
        }

    def setup_done(self, worker: Worker) -> None:
        """Note that a worker is ready."""
        self._breakers[worker.stage.spec.index].setup_done()

    def stage_raised(
        self, worker: Worker, failed: Failed, make_error: Callable[[Sequence[str]], BaseException], now: float
    ) -> None:
        """Judge an exception of the stage's code. ``make_error`` makes the caller's exception from the task ids."""
        batch_id = failed.batch_id
        batch = worker.release(batch_id) if batch_id is not None and batch_id in worker.in_flight else None
        task_ids = tuple(failed.task_ids or ()) or (batch.task_ids if batch else ())

        def error() -> BaseException:  # may be kept for long, so it must not hold the batch
            return make_error(task_ids)

        if batch is not None and failed.task_ids:
            batch = self._dispatcher.isolate(batch, failed.parent)
        record = _record_of(worker, batch, failed, task_ids)
        if failed.is_exit:
            capsule = self._report(record, Action.RAISE, DecisionReason.ENDED_PROCESS, now)
            raise _with_notes(error(), _how_to_replay(capsule))
        failure = self._failure_of(record.stage, failed)
        if batch is None:
            self._setup_failed(record, failure, error, now)
            return
        self._judge(record, batch, failure, error, now)
        if failure.kind is FailureKind.RETIRED:
            self._count_loss(worker, failed.text, error)

    def task_raised(
        self, worker: Worker, raised: RaisedTask, make_error: Callable[[Sequence[str]], BaseException], now: float
    ) -> None:
        """Judge an exception about one task of a group's batch, which went on without it."""
        origin, failed, part = raised
        batch = self._dispatcher.cut(worker.members[failed.stage], [part], now)
        batch.sent_at = origin.sent_at
        if origin.lifecycle is not None and origin.stage is batch.stage:  # it is another attempt
            batch.lifecycle = origin.lifecycle.of_task()
        task_ids = tuple(failed.task_ids or ())
        record = _record_of(worker, batch, failed, task_ids, (origin, failed.parent))
        failure = self._failure_of(record.stage, failed)
        if not part[0].bytes and record.stage.spec.policy.retries(failure):  # what it was given cannot be pickled
            failure = Failure(FailureKind.NOT_PICKLABLE, failure.text, failure.error_names)
        self._judge(record, batch, failure, lambda: make_error(task_ids), now)

    @staticmethod
    def _failure_of(stage: StageState, failed: Failed) -> Failure:
        names = tuple(failed.error_names)
        kind = FailureKind.NOT_PICKLABLE if failed.phase.is_transfer else stage.spec.policy.kind_of(names)
        return Failure(kind, failed.text, names)

    def worker_died(self, worker: Worker, exit_: Exit, phase: StagePhase, now: float) -> None:
        """Judge a worker that exited unexpectedly or was killed by a timeout. Its other batches are requeued."""
        timed_out = worker.timeout is not None
        cause = str(worker.timeout) if worker.timeout is not None else exit_.cause
        stage = _stage_of_death(worker, exit_)
        died = self.describe_death(worker, exit_, phase=phase, cause=cause)
        failure = Failure(FailureKind.TIMED_OUT if timed_out else FailureKind.DIED, died.cause)
        batch_id = exit_.current_batch
        batch = worker.release(batch_id) if batch_id is not None and batch_id in worker.in_flight else None
        if batch is not None and worker.stage.is_fused:
            batch = self._dispatcher.isolate(batch, exit_.current_task)
        record = FailureRecord(
            worker,
            stage,
            batch,
            batch.task_ids if batch else (),
            phase,
            "WorkerDied",
            str(died),
            worker.stacks_text or "",
            cause_of_death=died.cause,
            last_lines=exit_.last_lines,
        )
        if phase.is_preparation:
            self._setup_failed(record, failure, lambda: died, now)
            return
        self.requeue_batches(worker)
        if batch is not None:
            self._judge(record, batch, failure, lambda: died, now)
        else:
            self._emit(events.Noticed(str(died)))
        self._count_loss(worker, died.cause, lambda: died)

    def requeue_batches(self, worker: Worker) -> None:
        """Give a worker's batches to others: they were not at fault."""
        batches = [worker.release(batch_id) for batch_id in list(worker.in_flight)]
        for batch in batches:
            if batch.lifecycle is not None:
                batch.lifecycle.advance(AttemptEvent.LOST)
        self._dispatcher.requeue(batches)

    @staticmethod
    def describe_death(worker: Worker, exit_: Exit, *, phase: StagePhase, cause: str) -> WorkerDied:
        """Return the exception for a process that ended unexpectedly."""
        died = WorkerDied(
            stage=_stage_of_death(worker, exit_).spec.name,
            worker_id=worker.worker_id,
            exit_code=exit_.code,
            cause=cause,
            phase=phase,
            task_ids=[task_id for batch in worker.in_flight.values() for task_id in batch.task_ids],
            last_lines=exit_.last_lines,
        )
        hint = hint_for("\n".join(exit_.last_lines), worker.grant.allocation)
        if hint is not None:
            died.add_note(hint)
        return died

    def _setup_failed(self, record: FailureRecord, failure: Failure, error: MakeError, now: float) -> None:
        worker = record.worker
        verdict = judge_setup(worker.stage.spec.policy, failure)
        trip = None
        if verdict.action is Action.RETRY:
            breaker = self._breakers[worker.stage.spec.index]
            trip = breaker.setup_failed(live=_live(worker), cause=failure.text)
        if trip is not None or verdict.action is Action.RAISE:
            reason = verdict.reason if trip is None else DecisionReason.BREAKER
            capsule = self._report(record, Action.RAISE, reason, now)
            raise _with_notes(error(), str(trip) if trip is not None else None, _how_to_replay(capsule))
        where = f"{record.phase} of worker {worker.worker_id!r} (stage {record.stage.spec.name!r}) failed"
        self._emit(events.Noticed(f"{where}: {failure.text}; starting another worker"))

    def _judge(self, record: FailureRecord, batch: Batch, failure: Failure, error: MakeError, now: float) -> None:
        worker, stage = record.worker, record.stage
        policy = stage.spec.policy
        if batch.lifecycle is None:
            batch.lifecycle = BatchLifecycle(f"batch {batch.batch_id} of stage {stage.spec.name!r}")
        in_later_stage = batch.stage is not stage
        if in_later_stage:
            batch.stops_before = stage.spec.index
        verdict = batch.lifecycle.fail(
            policy,
            tasks=batch.size,
            worker_id=worker.worker_id,
            failure=failure,
            in_later_stage=in_later_stage,
        )
        capsule = self._report(record, verdict.action, verdict.reason, now)
        match verdict.action:
            case Action.RETRY:
                batch.not_before = now + policy.delay_s(batch.lifecycle.failures, batch.batch_id)
                self._dispatcher.requeue([batch])
            case Action.SPLIT:
                self._dispatcher.split(batch)
            case Action.QUARANTINE:
                self._dispatcher.quarantine(batch, failure.text)
                self._emit(
                    events.TasksQuarantined(now, stage.spec.index, worker.worker_id, batch.task_ids, failure.text)
                )
                self._count_quarantined(stage, failure, error)
            case Action.RAISE:
                raise _with_notes(error(), _earlier_attempts(batch.lifecycle, policy), _how_to_replay(capsule))

    def _count_quarantined(self, stage: StageState, failure: Failure, error: MakeError) -> None:
        """End the run if too many of a stage's tasks are quarantined, with the first one's error as the cause."""
        text, make_first = self._first_quarantined.setdefault(stage.spec.index, (failure.text, error))
        policy = stage.spec.policy
        if policy.allows_quarantined(stage.quarantined_tasks, stage.done_tasks):
            return
        raise TooManyQuarantined(
            f"stage {stage.spec.name!r}: {stage.quarantined_tasks} tasks are in quarantine and {stage.done_tasks} "
            f"done, more than max_quarantined={policy.max_quarantined:g} allows. The first error: {text}\n"
            "  If so many tasks are bad, raise max_quarantined, or set it to None; otherwise mend the stage."
        ) from make_first()

    def _count_loss(self, worker: Worker, cause: str, error: MakeError) -> None:
        stage = worker.stage
        breaker = self._breakers[stage.spec.index]
        trip = breaker.worker_lost(done=stage.group_done_tasks, live=_live(worker), cause=cause)
        if trip is not None:
            raise _with_notes(error(), str(trip))

    def _report(self, record: FailureRecord, action: Action, reason: DecisionReason, now: float) -> str | None:
        """Report a failure, and return the folder of its capsule, if it is kept."""
        batch, final = record.batch, action in (Action.QUARANTINE, Action.RAISE)
        if action is Action.QUARANTINE:
            self._hint_once(record)
        capsule = self._surroundings.keep(record) if final else None
        self._emit(
            events.BatchFailed(
                now,
                record.stage.spec.index,
                record.worker.worker_id,
                batch.batch_id if batch else None,
                record.task_ids,
                elapsed_s=now - batch.sent_at if batch else 0.0,
                error=record.cause_of_death or record.text,
                action=action,
                reason=reason,
                stacks=record.worker.stacks_text,
                capsule=capsule,
            )
        )
        return capsule

    def _hint_once(self, record: FailureRecord) -> None:
        """Say which option may help where the run goes on, so that no exception says it."""
        spec, allocation = record.stage.spec, record.worker.grant.allocation
        if spec.index in self._hinted:
            return
        limits = spec.share_enforcement is not ShareEnforcement.OFF
        hint = hint_for(record.text, allocation, record.traceback, limits_share=limits)
        if hint is not None:
            self._hinted.add(spec.index)
            self._emit(events.Noticed(f"stage {spec.name!r}: {hint}"))


def _stage_of_death(worker: Worker, exit_: Exit) -> StageState:
    """Return the stage of its group that a worker died in.

    It notes a stage when it calls it. Until then, it is the one at which the batch arrived, or a task would go back.
    """
    batch = worker.in_flight.get(exit_.current_batch) if exit_.current_batch is not None else None
    arrived_at = batch.stage.spec.index - worker.stage.spec.index if batch is not None else 0
    return worker.members[max(exit_.current_stage, arrived_at)]


def _record_of(
    worker: Worker,
    batch: Batch | None,
    failed: Failed,
    task_ids: tuple[str, ...],
    origin: tuple[Batch, int] | None = None,
) -> FailureRecord:
    stage = worker.members[failed.stage]
    return FailureRecord(
        worker,
        stage,
        batch,
        task_ids,
        failed.phase,
        failed.error_names[0],
        failed.text,
        failed.traceback,
        origin=origin,
    )


def _with_notes(error: BaseException, *notes: str | None) -> BaseException:
    for note in notes:
        if note is not None:
            error.add_note(note)
    return error


def _how_to_replay(capsule: str | None) -> str | None:
    return None if capsule is None else f"{HOW_TO_REPLAY}{capsule}"


def _earlier_attempts(lifecycle: BatchLifecycle, policy: RetryPolicy) -> str | None:
    earlier = [f"{attempt.failure.text} ({attempt.worker_id})" for attempt in lifecycle.history[:-1]]
    if not earlier:
        return None
    return f"attempt {len(earlier) + 1} of {policy.max_attempts}; earlier attempts: {'; '.join(earlier)}"


def _live(worker: Worker) -> int:
    """Return the number of its stage's workers, itself included: it may be reaped already."""
    return len(worker.stage.workers.keys() | {worker.worker_id})
