"""Runs a stage on blocks of rows in this process, as often as the policy allows, and tells the ledger.

An exception is judged at once and in place. After the end of a process there is nobody left to judge: whoever gets the
block next learns from the ledger how many attempts were lost, runs its batches one by one, and judges then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

from gpuexec.channel import codec
from gpuexec.channel.messages import BatchStats, Failed
from gpuexec.contract import metrics
from gpuexec.contract.phases import StagePhase
from gpuexec.core.attempts import halve
from gpuexec.core.retries import Action, DecisionReason, Failure, FailureKind, RetryPolicy, Verdict, judge
from gpuexec.errors import GpuShareExceeded
from gpuexec.executors.ray.ledger import Loss, Standing
from gpuexec.executors.ray.notes import AttemptFailed, BatchId, BlockDone, GaveUp, Note, RunFailed
from gpuexec.executors.ray.rows import Key, output_keys, task_of
from gpuexec.executors.ray.watchdog import Watchdog
from gpuexec.records import Record
from gpuexec.stage.session import StageSession
from gpuexec.worker.failures import describe_failure
from gpuexec.worker.gpu_memory_errors import free_gpu_cache, is_out_of_gpu_memory
from gpuexec.worker.memory import MemoryProbe

_TASKS_NAMED = 16
_END_OF_RETIRED = 1  # exit status of a worker that ends itself

Row = tuple[Key, Any]


class RunIsOver(Exception):
    """The run has ended or failed, so this block is not worked on. The driver knows why."""


class LedgerClient(Protocol):
    """The methods of `Ledger` that a worker calls; each returns when the ledger has answered."""

    def begin(self, batch: BatchId, worker_id: str) -> Standing: ...
    def end(self, batch: BatchId, done: BlockDone | None = None) -> None: ...
    def lose(self, batch: BatchId, loss: Loss) -> None: ...
    def split(self, batch: BatchId, inherited: int) -> None: ...
    def tell(self, note: Note) -> None: ...
    def quarantine(self, note: GaveUp, failed: Failed | None, block: BatchId, keys: Sequence[Key]) -> bool: ...


class BatchRules(Record):
    """What the options say about batches of a stage."""

    policy: RetryPolicy
    batch_size: int
    batch_timeout_s: float | None = None
    split_on_oom: bool = False
    records_calls: bool = False


class BlockRunner:
    """Runs blocks of rows of one stage in this process. ``worker_id``: its own."""

    def __init__(
        self,
        session: StageSession,
        rules: BatchRules,
        ledger: LedgerClient,
        probe: MemoryProbe,
        encoder: codec.Encoder,
        *,
        stage_index: int,
        worker_id: str,
    ) -> None:
        self._session = session
        self._rules = rules
        self._ledger = ledger
        self._probe = probe
        self._encoder = encoder
        self._index = stage_index
        self._worker_id = worker_id
        self._watchdog = Watchdog(rules.batch_timeout_s)
        self._idle_since = time.time()
        self._stats = BatchStats()
        self._calls: list[tuple[float, float, float, float, int, dict[str, float]]] = []
        self._block: BatchId = (stage_index, (), 0)
        self._current: BatchId = self._block  # what the ledger knows to be begun here
        self._given_up: frozenset[Key] = frozenset()  # tasks of the block that are in quarantine
        self._batches = 0

    def run(self, rows: Sequence[Row]) -> list[tuple[Key, bytes]]:
        """Run the stage on a block and return its outputs. Raises `RunIsOver` after a failure that ends the run."""
        began = time.time()
        self._stats, self._calls = BatchStats(began=began, idle_s=began - self._idle_since), []
        self._first_ids: list[str] = []
        block: BatchId = (self._index, rows[0][0], 0)
        self._block = block
        standing = self._begin(block)
        self._given_up = standing.given_up
        size = self._rules.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        outputs: list[tuple[Key, bytes]] = []
        if standing.lost or standing.split is not None:
            outputs = self._run_lost(batches, block, standing)
        else:
            for batch in batches:
                outputs += self._attempt(batch, 0)
        self._idle_since = self._stats.ended = time.time()
        ids, calls = tuple(self._first_ids[:_TASKS_NAMED]), tuple(self._calls)
        done = BlockDone(self._idle_since, self._index, self._worker_id, began, len(outputs), self._stats, ids, calls)
        self._ledger.end(block, done)
        return outputs

    def _begin(self, batch: BatchId) -> Standing:
        standing = self._ledger.begin(batch, self._worker_id)
        if standing.run_is_over:
            raise RunIsOver("the run has ended")
        self._current = batch
        return standing

    # ---- after the loss of a worker ------------------------------------------------------------------------

    def _run_lost(self, batches: Sequence[Sequence[Row]], block: BatchId, standing: Standing) -> list[Any]:
        """Run a block whose earlier attempts were lost. Of several batches it is not known which one was at fault."""
        if len(batches) == 1:
            return self._run_again(batches[0], block, standing, 0)
        policy = self._rules.policy
        if not policy.quarantine and standing.lost >= policy.max_attempts:
            rows = [row for batch in batches for row in batch]
            self._fail_lost(rows, standing, DecisionReason.ATTEMPTS_SPENT)
        outputs: list[Any] = []
        for batch in batches:
            each: BatchId = (self._index, batch[0][0], len(batch))
            outputs += self._run_again(batch, each, self._begin(each), 1)
            self._ledger.end(each)
        return outputs

    def _run_again(self, rows: Sequence[Row], batch: BatchId, standing: Standing, failures: int) -> list[Any]:
        """Run a batch. ``failures``: those that it begins with, beside the attempts that were lost."""
        if standing.split is not None:
            return self._run_halves(rows, standing.split)
        failures += standing.lost
        if not standing.lost:
            return self._attempt(rows, failures)
        loss = standing.loss or Loss(FailureKind.DIED, "its worker, or its node, was lost")
        failure = Failure(loss.kind, loss.text, tuple(loss.failed.error_names) if loss.failed else ())
        verdict = judge(self._rules.policy, tasks=len(rows), failures=failures, failure=failure)
        self._tell(rows, failure.text, verdict, 0.0, worker_id=standing.last_worker)
        match verdict.action:
            case Action.RETRY:
                time.sleep(self._rules.policy.delay_s(failures, failures))
                return self._attempt(rows, failures)
            case Action.SPLIT:
                self._ledger.split(batch, verdict.inherited)
                return self._run_halves(rows, verdict.inherited)
            case Action.QUARANTINE:
                return self._quarantine(rows, loss.text, loss.failed)
        self._fail_lost(rows, standing, verdict.reason)
        return []

    def _run_halves(self, rows: Sequence[Row], inherited: int) -> list[Any]:
        outputs: list[Any] = []
        for half in halve(rows):
            each: BatchId = (self._index, half[0][0], len(half))
            outputs += self._run_again(half, each, self._begin(each), inherited)
            self._ledger.end(each)
        return outputs

    def _fail_lost(self, rows: Sequence[Row], standing: Standing, reason: DecisionReason) -> None:
        loss = standing.loss or Loss(FailureKind.DIED, "its worker, or its node, was lost")
        cause = f"{loss.text} ({reason.value}: {standing.lost} lost). `ray logs` shows what the worker wrote"
        ids = tuple(self._ids(rows))
        self._fail(ids, "process", loss.failed, cause=cause, worker_id=standing.last_worker)

    # ---- one attempt ---------------------------------------------------------------------------------------

    def _attempt(self, rows: Sequence[Row], failures: int) -> list[Any]:
        """Run a batch until it succeeds or is given up. ``failures``: those so far."""
        policy = self._rules.policy
        while True:
            began = time.monotonic()
            try:
                with self._watchdog.watching(self._told_of_timeout):
                    return self._run_once(rows)
            except BaseException as error:  # noqa: BLE001 - SystemExit of a stage must not end the run silently
                failed = describe_failure(error, self._session.phase)
                failure = Failure(_kind_of(error, failed, policy), failed.text, tuple(failed.error_names))
            failures += 1
            elapsed = time.monotonic() - began
            verdict = judge(policy, tasks=len(rows), failures=failures, failure=failure)
            if failed.is_exit:
                verdict = Verdict(Action.RAISE, DecisionReason.ENDED_PROCESS)
            self._tell(rows, failure.text, verdict, elapsed)
            match verdict.action:
                case Action.RETRY if failure.kind.takes_worker:
                    self._end_process(Loss(failure.kind, failure.text, failed))
                case Action.RETRY:
                    time.sleep(policy.delay_s(failures, self._batches))
                case Action.SPLIT:
                    return [row for half in halve(rows) for row in self._attempt(half, verdict.inherited)]
                case Action.QUARANTINE:
                    return self._quarantine(rows, failure.text, failed)
                case Action.RAISE:
                    self._fail(tuple(self._ids(rows)), failed.phase, failed)

    def _run_once(self, rows: Sequence[Row]) -> list[Any]:
        session, stats = self._session, self._stats
        rows = [row for row in rows if row[0] not in self._given_up]
        if not rows:
            return []
        received = time.monotonic()
        session.phase = StagePhase.RECEIVE
        tasks = [task_of(payload) for _, payload in rows]
        inputs = [(key, task.task_id) for (key, _), task in zip(rows, tasks, strict=True)]
        if len(self._first_ids) < _TASKS_NAMED:
            self._first_ids += [task_id for _, task_id in inputs]
        input_bytes = sum(len(payload) for _, payload in rows)
        began = time.monotonic()
        self._probe.before_batch()
        outputs = self._process(rows, tasks, input_bytes)
        processed = time.monotonic()
        session.phase = StagePhase.RETURN
        keys = output_keys(inputs, [task.task_id for task in outputs])
        made = [(key, self._encoder.encode(task).join()) for key, task in zip(keys, outputs, strict=True)]
        session.phase = StagePhase.IDLE
        self._batches += 1
        stats.batches += 1
        stats.tasks_in += len(rows)
        stats.input_bytes += input_bytes
        stats.output_bytes += sum(len(payload) for _, payload in made)
        stats.receive_s += began - received
        stats.process_s += processed - began
        stats.send_s += time.monotonic() - processed
        stats.note_time(processed - began, self._batches)
        return made

    def _process(self, rows: Sequence[Row], tasks: list[Any], input_bytes: int) -> list[Any]:
        """Run the stage on tasks, in halves if they are too many for a GPU's memory and the options say so."""
        began = time.time()
        try:
            outputs = self._session.process(tasks)
            self._probe.check_share()
        except Exception as error:
            if not (self._rules.split_on_oom and len(rows) > 1 and is_out_of_gpu_memory(error)):
                raise
        else:
            self._note_call(began, input_bytes)
            return outputs
        tasks.clear()  # outside the except block: the exception's frames held the tensors that filled the memory
        free_gpu_cache()
        self._probe.forget_peaks()
        self._stats.metrics = metrics.merge_metrics(self._stats.metrics, {metrics.OOM_SPLITS: 1.0})
        return [
            task
            for half in halve(rows)
            for task in self._process(half, [task_of(payload) for _, payload in half], sum(len(p) for _, p in half))
        ]

    def _note_call(self, began: float, input_bytes: int) -> None:
        stats = self._session.adapter.last_stats
        readings = {**self._probe.after_batch(), metrics.INPUT_BYTES: float(input_bytes)}
        if stats is None:
            return
        stats.custom_metrics.update(readings)
        metrics.add_metrics(self._stats.metrics, stats.custom_metrics)
        self._stats.items += int(stats.num_items_processed)
        if self._rules.records_calls:
            values = (stats.process_time, stats.actor_idle_time, int(stats.num_items_processed))
            self._calls.append((began, time.time(), *values, dict(stats.custom_metrics)))

    # ---- what becomes of it --------------------------------------------------------------------------------

    def _told_of_timeout(self, stacks: str) -> None:
        limit = self._rules.batch_timeout_s
        text = f"a batch took longer than batch_timeout_s={limit:g}, so its worker was ended\n{stacks}"
        self._ledger.lose(self._current, Loss(FailureKind.TIMED_OUT, text))

    def _end_process(self, loss: Loss) -> None:
        """End this process: Ray starts another one and gives it the block."""
        self._ledger.lose(self._current, loss)
        os._exit(_END_OF_RETIRED)

    def _tell(
        self, rows: Sequence[Row], error: str, verdict: Verdict, elapsed_s: float, worker_id: str | None = None
    ) -> None:
        note = AttemptFailed(
            time.time(),
            self._index,
            worker_id or self._worker_id,
            tuple(self._ids(rows)),
            elapsed_s,
            error,
            verdict.action.value,
            verdict.reason.value,
        )
        self._ledger.tell(note)

    def _quarantine(self, rows: Sequence[Row], error: str, failed: Failed | None) -> list[Any]:
        note = GaveUp(time.time(), self._index, self._worker_id, tuple(self._ids(rows)), error)
        if self._ledger.quarantine(note, failed, self._block, [key for key, _ in rows]):
            raise RunIsOver(error)
        return []

    def _fail(
        self, ids: tuple[str, ...], phase: str, failed: Failed | None, *, cause: str = "", worker_id: str | None = None
    ) -> None:
        worker = worker_id or self._worker_id
        self._ledger.tell(RunFailed(time.time(), self._index, worker, ids, str(phase), failed, cause))
        raise RunIsOver(cause or (failed.text if failed else ""))

    @staticmethod
    def _ids(rows: Sequence[Row]) -> list[str]:
        """Return the ids of tasks; one that cannot be unpickled is named by its key."""
        ids = []
        for key, payload in rows:
            try:
                ids.append(str(task_of(payload).task_id))
            except Exception:  # noqa: BLE001 - a task's own code runs here
                ids.append("_".join(map(str, key)))
        return ids


def _kind_of(error: BaseException, failed: Failed, policy: RetryPolicy) -> FailureKind:
    if failed.phase in (StagePhase.RECEIVE, StagePhase.RETURN):
        return FailureKind.NOT_PICKLABLE
    if isinstance(error, GpuShareExceeded):
        return FailureKind.RETIRED  # the process may keep what it holds
    return policy.kind_of(failed.error_names)
