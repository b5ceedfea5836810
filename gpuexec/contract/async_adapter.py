"""Runs an asynchronous stage: one event loop per worker, and several calls in flight on it.

::

    setup ─► call ──► await the stage's coroutine ──► ids, markers and stats, as for any stage ─► teardown, loop closed
             call ──► …            (side by side)

The stage's coroutine is awaited first. The adapter of the stage's library then does what it does around every call, on
a stand-in that returns what the coroutine returned, so that both kinds of stages get the same ids, stats and errors.
What is the call's own (its time, its metrics) is kept apart from that of the calls beside it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from gpuexec.contract.async_stages import takes_batches
from gpuexec.errors import InvalidTask
from gpuexec.units import MIB

if TYPE_CHECKING:
    from gpuexec.contract.adapter import StageAdapter

T = TypeVar("T")

_metrics_of_call: ContextVar[dict[str, float] | None] = ContextVar("gpuexec_metrics_of_call", default=None)


class AsyncAdapter:
    """The adapter of an asynchronous stage; ``adapter`` is that of its library.

    ``before_call`` is given the ids of a call's tasks before the stage is; none before it is set up. ``select_outputs``
    returns those of a call's outputs that the run is to have. ``last_stats`` and
    ``last_failed`` are those of the call that ended last: whoever awaits `call` reads them before anything else runs.
    """

    def __init__(self, adapter: StageAdapter) -> None:
        self.stage = adapter.stage
        self.last_stats: Any = None
        self.last_failed: list[str] = []
        self.before_call: Callable[[Sequence[str]], None] | None = None
        self.select_outputs: Callable[[list[Any]], list[Any]] | None = None
        self._adapter = adapter
        self._takes_batches = takes_batches(adapter.stage)
        self._in_flight = 0
        self._idle_since: float | None = None
        self._runner = asyncio.Runner()
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        _keep_metrics_apart(self.stage)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the stage's event loop to its end.

        Where this thread runs an event loop already, as a notebook's does, another thread runs this one.
        """
        if not _runs_loop():  # not in an except block, or what the stage raises would have a context
            return self._runner.run(coroutine)
        return self._run_in_thread(coroutine)

    def _run_in_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._thread = self._thread or concurrent.futures.ThreadPoolExecutor(1, "gpuexec-async-stage")
        begun: concurrent.futures.Future[Callable[[], object]] = concurrent.futures.Future()

        async def cancellable() -> T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
            return await coroutine

        def cancel() -> None:
            begun.add_done_callback(lambda cancelled: cancelled.result()())

        with _interrupts_handled(cancel) as interrupts:
            try:
                return self._thread.submit(self._runner.run, cancellable()).result()
            except BaseException:
                if not interrupts:  # another signal's handler may have raised, and the coroutine still run
                    cancel()
                    self._thread.submit(_runs_loop).result()  # the thread does one thing after the other
                raise

    async def call(self, tasks: list[Any]) -> list[Any]:
        """Await the stage on these tasks and return its outputs, with ids and stats, and without markers.

        Raises what ``BaseStageAdapter.process_batch`` raises. Each call must be an asyncio task of its own.
        """
        items = sum([task.num_items for task in tasks])
        metrics: dict[str, float] = {}
        _metrics_of_call.set(metrics)
        began = time.monotonic()
        idle_s = 0.0 if self._in_flight or self._idle_since is None else began - self._idle_since
        self._in_flight += 1
        try:
            self._seed([task.task_id for task in tasks])
            returned = await self._returned(tasks)
        finally:
            self._in_flight -= 1
            self._idle_since = time.monotonic()
        outputs = self._finish(tasks, returned, metrics)
        stats = self.last_stats
        stats.process_time, stats.actor_idle_time = self._idle_since - began, idle_s
        stats.num_items_processed, stats.input_data_size_mb = items, items / MIB
        return outputs if self.select_outputs is None else self.select_outputs(outputs)

    async def _returned(self, tasks: list[Any]) -> Any:
        if self._takes_batches:
            return await self.stage.process_batch(tasks)
        results: list[Any] = []
        for task in tasks:
            if not self.stage.validate_input(task):
                raise InvalidTask(f"Task {task!s} failed validation for stage {self.stage}")
            result = await self.stage.process(task)
            if isinstance(result, list):
                results.extend(result)
            else:
                results.append(result)
        return results

    def _finish(self, tasks: list[Any], returned: Any, metrics: dict[str, float]) -> list[Any]:
        adapter = self._adapter
        adapter.stage = _Returns(self.stage, returned, metrics)
        try:
            outputs = adapter.process_batch(tasks)
        finally:
            adapter.stage = self.stage
        self.last_stats, self.last_failed = adapter.last_stats, adapter.last_failed
        return outputs

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        """Run one call to its end, for whoever makes one after the other."""
        return self.run(self.call(tasks))

    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None:
        """Prepare the node."""
        self._seed()
        self._run_method(self.stage.setup_on_node, node_info, worker_metadata)

    def setup(self, worker_metadata: Any) -> None:
        """Prepare the worker."""
        self._seed()
        self._run_method(self.stage.setup, worker_metadata)

    def teardown(self) -> None:
        """Undo ``setup``, then cancel what the stage has left on the event loop, and close it."""
        try:
            self._run_method(self.stage.teardown)
        finally:
            self.close()

    def close(self) -> None:
        """Close the event loop. Safe to repeat."""
        if self._thread is not None:
            self._thread.submit(self._runner.close).result()
            self._thread.shutdown()
        else:
            self._runner.close()

    def _seed(self, task_ids: Sequence[str] = ()) -> None:
        if self.before_call is not None:
            self.before_call(task_ids)

    def _run_method(self, method: Callable[..., Any], *arguments: Any) -> None:
        result = method(*arguments)
        if asyncio.iscoroutine(result):
            with _cancelled_by_stage():
                self.run(result)


def result_of(call: asyncio.Task[T]) -> T:
    """Return what the asyncio task of a call has come to. Whoever cancels such a task must not ask.

    Raises what it raised, and ``RuntimeError`` if it was cancelled, for then the stage has done that.
    """
    with _cancelled_by_stage():
        return call.result()


@contextlib.contextmanager
def _cancelled_by_stage() -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError as error:
        raise RuntimeError("the stage's coroutine was cancelled, by nobody outside of the stage") from error


@contextlib.contextmanager
def _interrupts_handled(cancel: Callable[[], None]) -> Iterator[list[int]]:
    """Let Ctrl-C call ``cancel``, and raise ``KeyboardInterrupt`` at the end of the block; a second one raises at once.

    ``KeyboardInterrupt`` in the midst of the block could lose sight of a coroutine that another thread has begun. As
    with asyncio, a handler of the program's own is left alone. Yields the signals that have arrived.
    """
    arrived: list[int] = []

    def handle(number: int, _frame: object) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            raise KeyboardInterrupt
        cancel()

    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield arrived
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if arrived:
            raise KeyboardInterrupt from None


def _runs_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Returns:
    """A stage whose ``process_batch`` has been awaited already."""

    def __init__(self, stage: Any, returned: Any, metrics: dict[str, float]) -> None:
        self._stage = stage
        self._returned = returned
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def process_batch(self, _tasks: list[Any]) -> Any:
        return self._returned

    def _consume_custom_metrics(self) -> dict[str, float]:
        """Return what the call has logged, and what was logged outside of any call, by a task in the background."""
        return {**self._stage._consume_custom_metrics(), **self._metrics}


def _keep_metrics_apart(stage: Any) -> None:
    """Let what the stage logs go to the call that logs it: both libraries collect it in one attribute of the stage."""
    log, lock = stage._log_metrics, threading.Lock()

    def log_of_call(metrics: Any) -> None:
        own = _metrics_of_call.get()
        if own is None:
            log(metrics)
            return
        with lock:  # a call may log from another thread, through asyncio.to_thread()
            kept = vars(stage).pop("_custom_metrics", None)
            stage._custom_metrics = own
            try:
                log(metrics)
            finally:
                del stage._custom_metrics
                if kept is not None:
                    stage._custom_metrics = kept

    stage._log_metrics = log_of_call
