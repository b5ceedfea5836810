"""What a worker does with each message, once its stage is loaded.

Whatever the stage raises becomes one `Failed` message. If that failure halts the worker, it takes no more batches and
waits for `Stop`, so that ``teardown`` still runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.channel.messages import ErrorHandling, NodeReady, Ready, SetUp, SetUpOnNode, Stop, Stopped, Work
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.channel.segments import SegmentPool
from gpuexec.channel.wire import BlockingConnection
from gpuexec.contract.lineage import parents_of
from gpuexec.contract.metrics import INPUT_BYTES, OOM_SPLITS, merge_metrics
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import ConnectionLost, GpuShareExceeded, error_names_match, names_of
from gpuexec.stage.session import StageSession
from gpuexec.worker.call_records import CallRecords
from gpuexec.worker.failures import describe_failure
from gpuexec.worker.gpu_memory_errors import free_gpu_cache, is_out_of_gpu_memory
from gpuexec.worker.inbox import Inbox
from gpuexec.worker.log_sink import LogSink
from gpuexec.worker.memory import MemoryProbe, PeakRss
from gpuexec.worker.outbox import Outbox

if TYPE_CHECKING:
    from gpuexec.stage.nvtx_ranges import Ranges

# On the hot path: looking up a member costs 0.1 µs in Python 3.11.
_IDLE, _RECEIVE, _PROCESS, _RETURN = StagePhase.IDLE, StagePhase.RECEIVE, StagePhase.PROCESS, StagePhase.RETURN


class Terminated(BaseException):
    """SIGTERM arrived: leave the stage's code, run ``teardown``, exit."""


class WorkerHalted(Exception):
    """The stage raised, the driver has been told, and this worker takes no more batches."""


class WorkerLoop:
    """Serves the driver's messages with a loaded stage; `run` returns when the process should exit."""

    def __init__(
        self,
        sessions: Sequence[StageSession],
        connection: BlockingConnection,
        probe: MemoryProbe,
        recorder: FlightRecorder,
        error_handling: ErrorHandling,
        log: LogSink,
        ranges: Ranges | None = None,
        calls: CallRecords | None = None,
    ) -> None:
        self._connection = connection
        self._sessions = sessions
        self._session = sessions[0]  # of the stage that this process is in or was in last
        self._stage = 0  # its position in the group
        self._blamed: tuple[str, ...] = ()  # ids of the tasks at fault, if not all of the batch
        self._blamed_input = 0  # the index of the batch's input that they were made of
        self._probe = probe
        self._recorder = recorder
        self._error_handling = error_handling
        self._log = log
        self._ranges = ranges
        self._pool = SegmentPool()
        self._outbox = Outbox(connection, self._pool)
        self._calls = self._outbox.calls = calls
        reads_only = all(getattr(session.adapter.stage, "reads_only", False) for session in sessions)
        self._inbox = Inbox(self._outbox.reuse_when_sent, reads_only=reads_only)
        self._idle_since = time.monotonic()
        self._peak_rss = PeakRss()
        self._sigterm_received = False
        # Of the current batch:
        self._given_up_ids: list[str] = []  # tasks that the stage returned as FailedTask
        self._part_stats: list[Any] = []  # the stats of each part; one part unless the batch was split
        self._splits = 0
        self._in_forked_child = False
        os.register_at_fork(after_in_child=self._note_fork)  # cheaper than asking for the pid at every batch

    def terminate(self) -> None:
        """Leave the stage's code at once. The signal handler calls this.

        Python drops an exception that is raised inside a finalizer, so the flag is checked after the batch too.
        """
        self._sigterm_received = True
        raise Terminated

    def run(self) -> None:
        """Serve messages until told to stop. Raises ``ConnectionLost`` when the driver is gone.

        After SIGTERM, raises ``SystemExit`` 143, the status that shells report for that signal.
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
        halted = False
        while True:
            if self._sigterm_received:
                raise Terminated
            self._outbox.flush_if_due(idle=not self._connection.poll())
            match self._connection.receive():
                case Stop():
                    break
                case _ if halted:
                    continue
                case message:
                    try:
                        self._handle(message)
                    except WorkerHalted:
                        halted = True
        self._outbox.flush()
        seconds = self._tear_down()
        self._connection.send(Stopped(seconds))

    def _handle(self, message: Any) -> None:
        match message:
            case Work():
                for segment in self._inbox.accept(message):
                    self._pool.keep(segment)
                for batch_id, count in zip(message.batch_ids, message.counts, strict=True):
                    if self._ranges is None:
                        self._run_batch(batch_id, count)
                    else:
                        with self._ranges.named("batch", batch_id):
                            self._run_batch(batch_id, count)
                    self._outbox.flush_if_due(idle=False)
            case SetUpOnNode():
                began = time.monotonic()
                for session in self._in_turn():
                    with self._reporting_failures():
                        session.set_up_on_node()
                self._connection.send(NodeReady(time.monotonic() - began))
            case SetUp():
                began = time.monotonic()
                for session in self._in_turn():
                    with self._reporting_failures():
                        session.set_up()
                        self._probe.check_share()
                self._connection.send(Ready(time.monotonic() - began))
                self._idle_since = time.monotonic()
            case unexpected:
                raise AssertionError(f"a driver never sends {unexpected}")

    def _tear_down(self) -> float:
        began = time.monotonic()
        for session in self._in_turn():
            with contextlib.suppress(WorkerHalted), self._reporting_failures():
                session.tear_down()
        return time.monotonic() - began

    def _in_turn(self) -> Iterator[StageSession]:
        """Yield the sessions of the group's stages, each as the one that this process is in."""
        for stage, session in enumerate(self._sessions):
            self._stage, self._session = stage, session
            self._log.stage = stage
            yield session

    @contextlib.contextmanager
    def _reporting_failures(self) -> Iterator[None]:
        """Send what the block raises to the driver, then raise `WorkerHalted`."""
        try:
            yield
        except Terminated:
            raise
        except BaseException as error:
            if self._in_forked_child:
                raise
            self._report(error, halted=True)
            raise WorkerHalted from error

    # ---- batches -------------------------------------------------------------------------------------------

    def _run_batch(self, batch_id: int, count: int) -> None:
        """Run one batch. Raises `WorkerHalted` if it failed and the worker takes no more."""
        began = time.monotonic()
        self._recorder.note_batch(batch_id, began, self._stage)
        if self._calls is not None:
            self._calls.begin()
        try:
            self._receive_process_return(batch_id, count, began)
        except Terminated:
            raise
        except BaseException as error:
            if self._in_forked_child:
                raise  # the child ends as any Python process does
            self._outbox.drop_unfinished(batch_id)
            halts = self._halts_after(error)
            self._report(error, batch_id, halted=halts)
            if halts:
                raise WorkerHalted from error
        if self._in_forked_child:
            raise self._not_the_worker()
        self._session.phase = _IDLE
        self._recorder.note_idle()
        self._idle_since = time.monotonic()

    def _receive_process_return(self, batch_id: int, count: int, received: float) -> None:
        session = self._session
        session.phase = _RECEIVE
        self._given_up_ids, self._part_stats, self._splits = [], [], 0  # a batch that raised may have left some
        tasks, input_bytes = self._inbox.take(count)
        input_ids = [task.task_id for task in tasks]
        began = time.monotonic()
        session.phase = _PROCESS  # a failure of the probe is most often the stage's: a CUDA error shows up late
        self._probe.before_batch()
        outputs = self._process(tasks, range(count))
        if self._in_forked_child:
            raise self._not_the_worker()
        processed = time.monotonic()
        metrics, items = self._batch_metrics(input_bytes)
        del tasks  # frees memory for the outputs
        session.phase = _RETURN
        parents = parents_of(input_ids, [task.task_id for task in outputs])
        output_bytes = self._outbox.add(batch_id, outputs, parents)
        if self._given_up_ids:
            self._outbox.note_failed(batch_id, parents_of(input_ids, self._given_up_ids))
        done = time.monotonic()
        self._outbox.totals.items += items
        self._count_batch(batch_id, count, (input_bytes, output_bytes), (received, began, processed, done))
        self._finish_batch(batch_id, metrics, done)

    def _count_batch(
        self, batch_id: int, count: int, sizes: tuple[int, int], times: tuple[float, float, float, float]
    ) -> None:
        """Add a batch of ``count`` tasks to the totals.

        ``sizes``: bytes of inputs and outputs. ``times``: when it was received, unpickled, processed and returned.
        """
        totals = self._outbox.totals
        received, began, processed, done = times
        totals.batches += 1
        totals.tasks_in += count
        totals.input_bytes += sizes[0]
        totals.output_bytes += sizes[1]
        totals.receive_s += began - received
        totals.process_s += processed - began
        totals.send_s += done - processed
        totals.idle_s += received - self._idle_since
        totals.began = totals.began or received
        totals.ended = done
        totals.note_time(processed - began, batch_id)

    def _finish_batch(self, batch_id: int, metrics: dict[str, float], done: float) -> None:
        if self._calls is not None:
            self._calls.complete()
        self._outbox.finish(metrics, self._peak_rss.read(done))
        if not self._inbox.done():
            self._outbox.note_held(batch_id)

    def _process(self, tasks: list[Any], positions: Sequence[int]) -> list[Any]:
        """Run the stage on the current batch, or on the part of it at these positions."""
        adapter = self._session.adapter
        began = 0.0 if self._calls is None else time.monotonic()
        try:
            outputs = self._process_within_share(tasks)
        except Exception as error:
            if not (self._error_handling.split_on_oom and len(tasks) > 1 and is_out_of_gpu_memory(error)):
                raise
        else:
            self._part_stats.append(adapter.last_stats)
            self._given_up_ids += adapter.last_failed
            if self._calls is not None:
                self._calls.note(0, began, time.monotonic(), adapter.last_stats)
            return outputs
        # Outside the except block: the exception's frames held the tensors that filled the memory.
        tasks.clear()
        self._splits += 1
        free_gpu_cache()
        self._probe.forget_peaks()  # sampled since the check, before the memory was freed
        from gpuexec.core.attempts import halve  # few workers need it

        outputs = []
        for half in halve(positions):
            outputs += self._process(self._inbox.take_again()[half[0] : half[-1] + 1], half)
        return outputs

    def _process_within_share(self, tasks: list[Any]) -> list[Any]:
        """Run the stage. Its outputs are dropped if the worker has held more of a GPU than it may."""
        outputs = self._session.process(tasks)
        self._probe.check_share()
        return outputs

    def _batch_metrics(self, input_bytes: int) -> tuple[dict[str, float], int]:
        """Add the executor's metrics to the stats of the current batch; return all its metrics and its item count."""
        gpu = self._probe.after_batch()
        *earlier, stats = self._part_stats
        self._part_stats = []
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

    # ---- failures ------------------------------------------------------------------------------------------

    def _halts_after(self, error: BaseException) -> bool:
        """Whether the worker takes no more batches.

        Inputs that cannot be unpickled halt it too: their block may hold tasks of the next batch.
        """
        handling = self._error_handling
        in_receive = self._session.phase is StagePhase.RECEIVE
        if not handling.continue_on_error or in_receive or not isinstance(error, Exception):
            return True
        if isinstance(error, GpuShareExceeded):  # its process may keep what it holds
            return True
        return error_names_match(names_of(error), handling.retire_on)

    def _report(self, error: BaseException, batch_id: int | None = None, *, halted: bool) -> None:
        self._outbox.flush()
        where = {"stage": self._stage, "task_ids": self._blamed or None, "parent": self._blamed_input}
        self._connection.send(describe_failure(error, self._session.phase, batch_id, halted=halted, **where))
        self._blamed, self._blamed_input = (), 0

    def _note_fork(self) -> None:
        self._in_forked_child = True

    def _not_the_worker(self) -> ConnectionLost:
        """Return what a forked child raises on its return from stage code: socket and shared pages are its parent's."""
        return ConnectionLost("this is a child that the stage forked, not the worker itself")
