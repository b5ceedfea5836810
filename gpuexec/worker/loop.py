"""What a worker does with each message, once its stage is loaded.

The stage's code runs inside `_run_batch` and `_in_phase`, which turn whatever it raises into one `Failed` message.
After a failure that halts it, a worker takes no more batches: it waits to be told to stop, so that ``teardown``
still runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Protocol

from gpuexec.channel import codec
from gpuexec.channel.messages import (
    ErrorHandling,
    Failed,
    NodeReady,
    Payload,
    Ready,
    SetUp,
    SetUpOnNode,
    Stop,
    Stopped,
    Work,
)
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.channel.segments import SegmentPool
from gpuexec.channel.wire import BlockingConnection
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.lineage import parents_of
from gpuexec.contract.metrics import INPUT_BYTES, OOM_SPLITS, merge_metrics
from gpuexec.errors import ConnectionLost, error_names_match, names_of
from gpuexec.naming import full_name
from gpuexec.stage.pinning import check_pinning
from gpuexec.worker.gpu_memory_errors import free_gpu_cache, is_out_of_gpu_memory
from gpuexec.worker.inbox import Inbox
from gpuexec.worker.log_sink import LogSink
from gpuexec.worker.memory import PeakRss
from gpuexec.worker.outbox import Outbox


class Adapter(Protocol):
    """What native and Curator adapters have in common."""

    stage: Any
    last_stats: Any
    last_failed: list[str]

    def process_batch(self, tasks: list[Any]) -> list[Any]: ...
    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None: ...
    def setup(self, worker_metadata: Any) -> None: ...
    def teardown(self) -> None: ...


class MemoryProbe(Protocol):
    """Reads this process's GPU memory around a batch."""

    def before_batch(self) -> None: ...
    def after_batch(self) -> dict[str, float]: ...
    def close(self) -> None: ...


class Terminated(BaseException):
    """SIGTERM arrived: leave the stage's code, run ``teardown``, exit."""


class StageFailure(Exception):
    """A stage raised and the driver has been told."""


class WorkerLoop:
    """One worker's life after its stage is loaded; ``run`` returns when the process should exit."""

    def __init__(
        self,
        connection: BlockingConnection,
        adapter: Adapter,
        node: NodeInfo,
        metadata: WorkerMetadata,
        probe: MemoryProbe,
        log: LogSink,
        recorder: FlightRecorder,
        error_handling: ErrorHandling,
    ) -> None:
        self._connection = connection
        self._adapter = adapter
        self._node = node
        self._metadata = metadata
        self._probe = probe
        self._log = log
        self._recorder = recorder
        self._error_handling = error_handling
        self._pool = SegmentPool()
        self._outbox = Outbox(connection, self._pool)
        self._inbox = Inbox(self._outbox.reuse_when_sent)
        self._idle_since = time.monotonic()
        self._needs_teardown = False
        self._rss = PeakRss()
        self._terminated = False
        self._phase = ""
        self._failed: list[str] = []  # ids of tasks of the batch in hand that the stage gave up
        self._parts: list[Any] = []  # figures of the batch in hand, more than one if it was split
        self._splits = 0
        self._forked = False  # this is a child that the stage forked
        os.register_at_fork(after_in_child=self._note_fork)  # cheaper than asking for the pid at every batch

    def terminate(self) -> None:
        """Leave the stage's code at once: called by the signal handler.

        Python drops an exception that is raised inside a finalizer; ``_terminated`` is seen after the batch.
        """
        self._terminated = True
        raise Terminated

    def run(self) -> None:
        """Serve messages until told to stop. Raises ``ConnectionLost`` when the driver is gone.

        Ends with ``SystemExit`` 143, as shells report SIGTERM, after that signal.
        """
        try:
            self._serve()
        except Terminated:
            self._connection.disown()  # the interrupted send may have left half a frame
            self._tear_down()
            sys.exit(128 + signal.SIGTERM)
        finally:
            self._probe.close()
            self._pool.close()
            self._recorder.close()

    def _serve(self) -> None:
        failed = False
        while True:
            if self._terminated:
                raise Terminated
            self._outbox.flush_if_due(idle=not self._connection.poll())
            match self._connection.receive():
                case Stop():
                    break
                case _ if failed:
                    continue
                case message:
                    try:
                        self._handle(message)
                    except StageFailure:
                        failed = True
        self._outbox.flush()
        seconds = self._tear_down()
        self._connection.send(Stopped(seconds))

    def _handle(self, message: Any) -> None:
        match message:
            case Work():
                self._inbox.accept(message)
                for batch_id, count in zip(message.batch_ids, message.counts, strict=True):
                    self._run_batch(batch_id, count)
                    self._outbox.flush_if_due(idle=False)
            case SetUpOnNode():
                from gpuexec.stage.node_lock import node_lock  # few workers need it

                began = time.monotonic()
                with self._in_phase("setup_on_node"), node_lock(full_name(type(self._adapter.stage))):
                    self._adapter.setup_on_node(self._node, self._metadata)
                self._connection.send(NodeReady(time.monotonic() - began))
            case SetUp():
                began = time.monotonic()
                self._needs_teardown = True
                with self._in_phase("setup"):
                    self._adapter.setup(self._metadata)
                    check_pinning(self._metadata.allocation)
                self._connection.send(Ready(time.monotonic() - began))
                self._idle_since = time.monotonic()
            case unexpected:
                raise AssertionError(f"a driver never sends {unexpected}")

    def _run_batch(self, batch_id: int, count: int) -> None:
        """Run one batch. Raises ``StageFailure`` if it failed and the worker takes no more."""
        began = time.monotonic()
        self._recorder.begin(batch_id, began)
        self._log.install_if_imported()
        try:
            self._pass_through(batch_id, count, began)
        except Terminated:
            raise
        except BaseException as error:
            if self._forked:
                raise  # a child that the stage forked: it ends as any Python process does
            self._outbox.drop_unfinished()
            halts = self._halts_after(error)
            self._tell_failure(error, self._phase, batch_id, halted=halts)
            if halts:
                raise StageFailure from error
        self._end_if_forked()
        self._recorder.end()
        self._idle_since = time.monotonic()

    def _pass_through(self, batch_id: int, count: int, received: float) -> None:
        self._phase = "receive"
        self._failed, self._parts, self._splits = [], [], 0  # a batch that raised may have left some
        tasks, input_bytes = self._inbox.take(count)
        input_ids = [task.task_id for task in tasks]
        began = time.monotonic()
        self._phase = "process"
        self._probe.before_batch()
        outputs = self._process(tasks)
        self._end_if_forked()
        processed = time.monotonic()
        metrics, items = self._note_stats(input_bytes)
        del tasks  # frees memory for the outputs
        self._phase = "return"
        parents = parents_of(input_ids, [task.task_id for task in outputs])
        output_bytes = self._outbox.add(batch_id, outputs, parents)
        if self._failed:
            self._outbox.note_failed(batch_id, parents_of(input_ids, self._failed))
        done = time.monotonic()
        totals = self._outbox.totals
        totals.batches += 1
        totals.tasks_in += count
        totals.items += items
        totals.input_bytes += input_bytes
        totals.output_bytes += output_bytes
        totals.receive_s += began - received
        totals.process_s += processed - began
        totals.send_s += done - processed
        totals.idle_s += received - self._idle_since
        self._outbox.finish(metrics, self._rss.read(done), done)
        self._inbox.done()

    def _note_fork(self) -> None:
        self._forked = True

    def _end_if_forked(self) -> None:
        """A child that the stage forked came back from its code. What it shares with the worker is not its to write."""
        if self._forked:
            raise ConnectionLost("a forked child speaks for no worker")

    def _process(self, tasks: list[Any], first: int = 0) -> list[Any]:
        """Run the stage on (a part of) the batch in hand; ``first``: the part's place in it."""
        try:
            outputs = list(self._adapter.process_batch(tasks))
        except Exception as error:
            if not (self._error_handling.split_on_oom and len(tasks) > 1 and is_out_of_gpu_memory(error)):
                raise
        else:
            self._parts.append(self._adapter.last_stats)
            self._failed += self._adapter.last_failed
            return outputs
        # Outside the except block: the exception's frames held the tensors that filled the memory.
        count, middle = len(tasks), len(tasks) // 2
        tasks.clear()
        self._splits += 1
        free_gpu_cache()
        outputs = self._process(self._inbox.take_again()[first : first + middle], first)
        return outputs + self._process(self._inbox.take_again()[first + middle : first + count], first + middle)

    def _note_stats(self, input_bytes: int) -> tuple[dict[str, float], int]:
        """Add the executor's figures to the batch's own stats object; return its metrics and item count."""
        gpu = self._probe.after_batch()
        *earlier, stats = self._parts
        self._parts = []
        if stats is None:
            return {}, 0
        stats.custom_metrics.update(gpu)
        stats.custom_metrics[INPUT_BYTES] = float(input_bytes)
        metrics, items = stats.custom_metrics, int(stats.num_items_processed)
        for part in earlier:
            metrics, items = merge_metrics(metrics, part.custom_metrics), items + int(part.num_items_processed)
        if self._splits:
            metrics[OOM_SPLITS] = float(self._splits)
            self._splits = 0
        return metrics, items

    def _tear_down(self) -> float:
        began = time.monotonic()
        if self._needs_teardown:
            self._needs_teardown = False
            with contextlib.suppress(StageFailure), self._in_phase("teardown"):
                self._adapter.teardown()
        return time.monotonic() - began

    @contextlib.contextmanager
    def _in_phase(self, phase: str) -> Iterator[None]:
        self._log.install_if_imported()
        try:
            yield
        except Terminated:
            raise
        except BaseException as error:
            if self._forked:
                raise
            self._tell_failure(error, phase, halted=True)
            raise StageFailure from error

    def _halts_after(self, error: BaseException) -> bool:
        """Inputs that cannot be unpickled halt it too: their parcel may hold tasks of the next batch."""
        error_handling = self._error_handling
        if not error_handling.continue_on_error or self._phase == "receive" or not isinstance(error, Exception):
            return True
        return error_names_match(names_of(error), error_handling.retire_on)

    def _tell_failure(self, error: BaseException, phase: str, batch_id: int | None = None, *, halted: bool) -> None:
        self._outbox.flush()
        self._connection.send(describe_failure(error, phase, batch_id, halted=halted))


def describe_failure(error: BaseException, phase: str, batch_id: int | None = None, *, halted: bool = True) -> Failed:
    """Make the message that carries an exception; the exception itself only if it survives the way."""
    text = "".join(traceback.format_exception_only(error)).strip()
    is_exit = not isinstance(error, Exception)
    return Failed(
        phase=phase,
        batch_id=batch_id,
        error_names=names_of(error),
        text=text,
        traceback=_stage_traceback(error),
        is_exit=is_exit,
        halted=halted,
        payloads=() if is_exit else _portable(error),
    )


def _portable(error: BaseException) -> tuple[Payload, ...]:
    """Pickle an exception if it also unpickles (many cannot: cpython#103061) to the same type."""
    try:
        payload = codec.encode_by_value(error).join()
        if type(codec.decode(payload, in_place=False)) is type(error):
            return (payload,)
    except Exception:  # noqa: BLE001, S110 - the text and traceback still travel
        pass
    return ()


def _stage_traceback(error: BaseException) -> str:
    """Format the traceback without this module's own frames at its top."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__ and trace.tb_next is not None:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises must still be reported
        return f"{type(error).__name__} (its text could not be formatted)\n{sys.exc_info()[1]!r}"
