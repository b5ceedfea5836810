"""What a worker does with each message, once its stage is loaded.

The stage's code runs in exactly one place (`_in_phase`), which turns whatever it raises into one `Failed`
message. After a failure the worker takes no more batches: it waits to be told to stop, so that
``teardown`` still runs.
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

from gpuexec.bridge.origin import class_name_of
from gpuexec.channel import codec, segments
from gpuexec.channel.messages import (
    Failed,
    Figures,
    NodeReady,
    Payload,
    Ready,
    SetUp,
    SetUpOnNode,
    Stop,
    Stopped,
    Work,
    payload_size,
)
from gpuexec.channel.segments import Range, SegmentPool
from gpuexec.channel.wire import BlockingConnection
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.lineage import parents_of
from gpuexec.contract.metrics import INPUT_BYTES
from gpuexec.worker.log_sink import LogSink
from gpuexec.worker.memory import PeakRss
from gpuexec.worker.outbox import Outbox
from gpuexec.worker.pinning import check_pinning


class Adapter(Protocol):
    """What native and Curator adapters have in common."""

    stage: Any
    last_stats: Any

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
    ) -> None:
        self._connection = connection
        self._adapter = adapter
        self._node = node
        self._metadata = metadata
        self._probe = probe
        self._log = log
        self._pool = SegmentPool()
        self._outbox = Outbox(connection, self._pool)
        self._idle_since = time.monotonic()
        self._needs_teardown = False
        self._rss = PeakRss()
        self._terminated = False
        self._pid = os.getpid()

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
            case SetUpOnNode():
                from gpuexec.worker.node_lock import node_lock  # few workers need it

                began = time.monotonic()
                with self._in_phase("setup_on_node"), node_lock(class_name_of(self._adapter.stage)):
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
            case Work():
                self._work(message)
            case unexpected:
                raise AssertionError(f"a driver never sends {unexpected}")

    def _work(self, message: Work) -> None:
        payloads = list(reversed(message.payloads))
        batches = list(zip(message.batch_ids, message.counts, strict=True))
        del message
        for batch_id, count in batches:
            self._run_batch(batch_id, [payloads.pop() for _ in range(count)])
            self._outbox.flush_if_due(idle=False)

    def _run_batch(self, batch_id: int, payloads: list[Payload]) -> None:
        received = time.monotonic()
        input_bytes = sum(map(payload_size, payloads))
        with self._in_phase("receive", batch_id):
            tasks = self._decode(payloads)
        input_ids = [task.task_id for task in tasks]
        began = time.monotonic()
        self._probe.before_batch()
        with self._in_phase("process", batch_id):
            outputs = list(self._adapter.process_batch(tasks))
        processed = time.monotonic()
        items = self._note_figures(input_bytes)
        del tasks  # frees segments for the outputs
        with self._in_phase("return", batch_id):
            parents = parents_of(input_ids, [task.task_id for task in outputs])
            output_bytes = self._outbox.add(batch_id, outputs, parents)
        done = time.monotonic()
        stats = self._adapter.last_stats
        figures = Figures(
            tasks_in=len(input_ids),
            items=items,
            input_bytes=input_bytes,
            output_bytes=output_bytes,
            receive_s=began - received,
            process_s=processed - began,
            send_s=done - processed,
            idle_s=received - self._idle_since,
            rss_peak_bytes=self._rss.read(done),
            metrics=dict(stats.custom_metrics) if stats is not None else {},
        )
        self._outbox.finish(batch_id, figures)
        self._idle_since = done

    def _decode(self, payloads: list[Payload]) -> list[Any]:
        tasks = []
        payloads.reverse()
        while payloads:
            payload = payloads.pop()
            if isinstance(payload, Range):
                tasks.append(codec.decode(segments.open_range(payload, self._pool), in_place=True))
            else:
                tasks.append(codec.decode(payload, in_place=False))
        return tasks

    def _note_figures(self, input_bytes: int) -> int:
        """Add the executor's figures to the batch's own stats object; return its item count."""
        stats = self._adapter.last_stats
        gpu = self._probe.after_batch()
        if stats is None:
            return 0
        stats.custom_metrics.update(gpu)
        stats.custom_metrics[INPUT_BYTES] = float(input_bytes)
        return int(stats.num_items_processed)

    def _tear_down(self) -> float:
        began = time.monotonic()
        if self._needs_teardown:
            self._needs_teardown = False
            with contextlib.suppress(StageFailure), self._in_phase("teardown"):
                self._adapter.teardown()
        return time.monotonic() - began

    @contextlib.contextmanager
    def _in_phase(self, phase: str, batch_id: int | None = None) -> Iterator[None]:
        self._log.install_if_imported()
        try:
            yield
        except Terminated:
            raise
        except BaseException as error:
            if os.getpid() != self._pid:
                raise  # a child that the stage forked: it ends as any Python process does
            self._outbox.flush()
            self._connection.send(describe_failure(error, phase, batch_id))
            raise StageFailure from error


def describe_failure(error: BaseException, phase: str, batch_id: int | None = None) -> Failed:
    """Make the message that carries an exception; the exception itself only if it survives the way."""
    text = "".join(traceback.format_exception_only(error)).strip()
    is_exit = not isinstance(error, Exception)
    return Failed(
        phase=phase,
        batch_id=batch_id,
        error_type=f"{type(error).__module__}.{type(error).__qualname__}",
        text=text,
        traceback=_stage_traceback(error),
        is_exit=is_exit,
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
