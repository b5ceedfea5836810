"""What is done about batches that fail and workers that are gone: the shell around ``lifecycle``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuexec import events
from gpuexec.channel.messages import Failed
from gpuexec.config import ExecutorConfig
from gpuexec.core.attempts import AttemptEvent, BatchLifecycle
from gpuexec.core.breaker import Breaker
from gpuexec.core.retries import Action, DecisionReason, Failure, FailureKind, RetryPolicy, Verdict, judge_setup
from gpuexec.driver import exceptions
from gpuexec.driver.flow import Flow
from gpuexec.driver.state import Batch, StageState, Worker
from gpuexec.errors import WorkerDied

_TRAVELS = ("receive", "return")  # phases in which tasks are unpickled or pickled


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """All that is known of a failed batch, or of a set-up (then ``batch`` is ``None``), for its capsule."""

    worker: Worker
    batch: Batch | None
    phase: str
    error_type: str
    text: str
    traceback: str
    cause_of_death: str | None = None


def policy_of(config: ExecutorConfig) -> RetryPolicy:
    """The part of the options that decides about failures."""
    return RetryPolicy(
        max_attempts=config.max_attempts,
        quarantine=config.on_task_failure == "quarantine",
        retry_on=config.retry_on,
        retire_on=config.retire_on,
    )


class Recovery:
    """Decides on failures by the policy and puts batches where they belong.

    Methods raise the error that ends the run, where it is to end. ``tell`` reports an event; ``keep`` stores a failed
    batch and returns where.
    """

    def __init__(
        self,
        config: ExecutorConfig,
        stages: Sequence[StageState],
        flow: Flow,
        *,
        emit: Callable[[events.RunEvent], None],
        keep: Callable[[FailureRecord], str | None],
    ) -> None:
        self._policy = policy_of(config)
        self._flow = flow
        self._emit = emit
        self._keep = keep
        self._breakers = [Breaker(s.spec.name, self._policy, s.spec.batch_size) for s in stages]

    def setup_done(self, worker: Worker) -> None:
        """A worker is ready."""
        self._breakers[worker.stage.spec.index].setup_done()

    def stage_raised(self, worker: Worker, failed: Failed, producer: str) -> None:
        """The stage's code raised. ``producer``: who made the batch's inputs, in words."""
        stage = worker.stage
        batch = worker.in_flight.pop(failed.batch_id, None) if failed.batch_id is not None else None

        def error() -> BaseException:
            return exceptions.stage_exception(
                failed,
                stage=stage.spec.name,
                producer=producer,
                worker_id=worker.id,
                task_ids=batch.task_ids if batch else (),
            )

        record = FailureRecord(worker, batch, failed.phase, failed.error_names[0], failed.text, failed.traceback)
        if failed.is_exit:
            self._report(record, Verdict(Action.RAISE, DecisionReason.NOT_RETRIED), final=True)
            raise error()
        kind = FailureKind.UNRETURNABLE if failed.phase in _TRAVELS else self._policy.kind_of(tuple(failed.error_names))
        failure = Failure(kind, failed.text, tuple(failed.error_names))
        if batch is None:
            self._setup_failed(record, failure, error)
            return
        self._judge(record, batch, failure, error)
        if kind is FailureKind.RETIRED:
            self._count_loss(worker, failed.text, error)

    def worker_died(self, worker: Worker, died: WorkerDied, *, at_work: Batch | None, timed_out: bool) -> None:
        """A worker ended that was to go on, or was killed for taking too long. ``at_work``: the batch it was at."""
        kind = FailureKind.TIMED_OUT if timed_out else FailureKind.DIED
        failure = Failure(kind, died.cause)
        if at_work is not None:
            del worker.in_flight[at_work.batch_id]
        record = FailureRecord(
            worker, at_work, died.phase, "WorkerDied", str(died), worker.stacks_text or "", cause_of_death=died.cause
        )
        if died.phase in ("start-up", "setup", "setup_on_node"):
            self._setup_failed(record, failure, lambda: died)
            return
        self.requeue(worker)
        if at_work is not None:
            self._judge(record, at_work, failure, lambda: died)
        else:
            self._emit(events.Noticed(str(died)))
        self._count_loss(worker, died.cause, lambda: died)

    def requeue(self, worker: Worker) -> None:
        """Whatever a worker has in hand goes to others: it was not at fault."""
        batches = list(worker.in_flight.values())
        worker.in_flight.clear()
        for batch in batches:
            if batch.life is not None:
                batch.life.advance(AttemptEvent.LOST)
        self._flow.requeue(worker.stage, batches)

    def _setup_failed(self, record: FailureRecord, failure: Failure, error: Callable[[], BaseException]) -> None:
        worker = record.worker
        verdict = judge_setup(self._policy, failure)
        trip = None
        if verdict.step is Action.RETRY:
            breaker = self._breakers[worker.stage.spec.index]
            trip = breaker.setup_failed(live=_live(worker), cause=failure.text)
        if trip is not None or verdict.step is Action.RAISE:
            self._report(record, Verdict(Action.RAISE, DecisionReason.CANNOT_SET_UP), final=True)
            raise _noted(error(), str(trip) if trip is not None else None)
        self._emit(events.Noticed(f"{_where(record)}: {failure.text}; another worker is started"))

    def _judge(self, record: FailureRecord, batch: Batch, failure: Failure, error: Callable[[], BaseException]) -> None:
        worker, stage = record.worker, record.worker.stage
        if batch.life is None:
            batch.life = BatchLifecycle(f"batch {batch.batch_id} of stage {stage.spec.name!r}")
        verdict = batch.life.fail(self._policy, tasks=batch.size, worker_id=worker.id, failure=failure)
        self._report(record, verdict, final=verdict.step in (Action.QUARANTINE, Action.RAISE))
        match verdict.step:
            case Action.RETRY:
                self._flow.requeue(stage, [batch])
            case Action.SPLIT:
                self._flow.split(stage, batch)
            case Action.QUARANTINE:
                self._flow.quarantine(stage, batch, failure.text)
                now = time.monotonic()
                self._emit(events.TasksQuarantined(now, stage.spec.index, worker.id, batch.task_ids, failure.text))
            case Action.RAISE:
                earlier = [f"{attempt.failure.text} ({attempt.worker_id})" for attempt in batch.life.history[:-1]]
                note = f"it was attempt {len(earlier) + 1}; before: {'; '.join(earlier)}" if earlier else None
                raise _noted(error(), note)

    def _count_loss(self, worker: Worker, cause: str, error: Callable[[], BaseException]) -> None:
        stage = worker.stage
        breaker = self._breakers[stage.spec.index]
        trip = breaker.worker_lost(done=stage.done_tasks, live=_live(worker), cause=cause)
        if trip is not None:
            raise _noted(error(), str(trip))

    def _report(self, record: FailureRecord, verdict: Verdict, *, final: bool) -> None:
        now = time.monotonic()
        batch = record.batch
        self._emit(
            events.BatchFailed(
                now,
                record.worker.stage.spec.index,
                record.worker.id,
                batch.batch_id if batch else None,
                batch.task_ids if batch else (),
                elapsed_s=now - batch.sent_at if batch else 0.0,
                error=record.cause_of_death or record.text,
                action=verdict.step.value,
                reason=verdict.why.value,
                stacks=record.worker.stacks_text,
                capsule=self._keep(record) if final else None,
            )
        )


def _noted(error: BaseException, note: str | None) -> BaseException:
    if note is not None:
        error.add_note(note)
    return error


def _where(record: FailureRecord) -> str:
    return f"{record.phase} of worker {record.worker.id!r} (stage {record.worker.stage.spec.name!r}) failed"


def _live(worker: Worker) -> int:
    """Workers of its stage, itself included: it may be buried already."""
    return len(worker.stage.workers.keys() | {worker.id})
