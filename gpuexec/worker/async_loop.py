"""What a worker of an asynchronous stage does with its batches: several are in flight at once, on one event loop.

::

    socket ─► queued ─► running, at most max_concurrency ─► Results, or Failed of that batch alone
                           └─ each an asyncio task; a step is what it does between two awaits

Invariants
1. At most ``max_concurrency`` batches run. Others wait in the order they came, and are unpickled when they begin.
2. A batch is sent back when it is done, whatever runs beside it. Its failure costs no other batch anything, unless the
   worker takes no more.
3. The flight recorder names the batch whose step runs, or ran last, so a crash is blamed on the batch that caused it.
   It is fresh while the loop turns, so that ``batch_timeout_s`` catches a step that blocks the loop.
4. A batch that takes longer than ``batch_timeout_s`` is cancelled. The worker goes on. If the batch has not ended after
   as long again, the flight recorder has it to the end, so that the driver replaces the worker.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from gpuexec.channel.messages import Work
from gpuexec.contract.async_adapter import AsyncAdapter, result_of
from gpuexec.contract.lineage import parents_of
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import BatchTimedOut
from gpuexec.worker.inbox import BatchPart, Inbox
from gpuexec.worker.loop import Terminated, WorkerHalted, WorkerLoop

_RECEIVE, _PROCESS, _RETURN = StagePhase.RECEIVE, StagePhase.PROCESS, StagePhase.RETURN
_CANCEL_S = 1.0  # that batches may take to end once they are cancelled
_BEATS = 4  # times that the flight recorder is refreshed within batch_timeout_s


class StageExited(Exception):
    """The stage has called ``sys.exit()`` or the like, which would end the event loop; it is the ``__cause__``."""


@dataclass(slots=True)
class _Running:
    """A batch in flight. ``parts``: where its tasks came from, see `Inbox`."""

    batch_id: int
    tasks: list[Any]
    task_ids: list[str]
    input_bytes: int
    parts: list[BatchPart]
    began: float


class AsyncLoop(WorkerLoop):
    """Serves the driver's messages with an asynchronous stage."""

    def __init__(self, *arguments: Any, max_concurrency: int, batch_timeout_s: float | None) -> None:
        super().__init__(*arguments)
        self._inbox = Inbox(self._outbox.reuse_when_sent)  # with views, a batch could not outlive the next
        adapter = self._session.adapter
        assert isinstance(adapter, AsyncAdapter)
        self._adapter = adapter
        self._limit = max_concurrency
        self._batch_timeout_s = batch_timeout_s
        self._queued: deque[tuple[int, int]] = deque()  # batches that do not run yet: id, number of tasks
        self._running: dict[asyncio.Task[Any], _Running] = {}
        self._next_message: Any = None  # one that is not for the event loop
        self._flushes = False  # a flush is due
        self._in_step = False
        self._noted = -1  # the batch in the flight recorder
        self._is_stuck = False  # that batch does not end, though it was cancelled
        self._receive_s = 0.0  # since the time was accounted last
        self._over: asyncio.Future[None] | None = None  # while the event loop serves

    def terminate(self) -> None:
        """Leave the event loop, and the stage's code if a step of it runs. The signal handler calls this."""
        if self._over is None:
            super().terminate()
        else:
            self._sigterm_received = True
            self._over.get_loop().call_soon_threadsafe(self._end, Terminated())
            if self._in_step:
                raise Terminated

    def _handle(self, message: Any) -> None:
        if isinstance(message, Work):
            self._adapter.run(self._serve_batches(message))
        else:
            super()._handle(message)

    # ---- the event loop ------------------------------------------------------------------------------------

    async def _serve_batches(self, first: Work) -> None:
        """Serve until another message than `Work` comes and all batches are done. Raises `WorkerHalted`."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        loop.add_reader(self._connection, self._guarded, self._read)
        try:
            self._beat()
            self._guarded(self._accept, first)
            self._guarded(self._read)
            await self._over
        finally:
            loop.remove_reader(self._connection)
            await self._cancel_running()
            self._over = None
        self._outbox.flush()
        self._connection.put_back(self._next_message)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """Take a step; what it raises ends the serving, for an event loop would only log it."""
        try:
            step(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is raised again by who awaits
            self._end(error)

    def _end(self, error: BaseException | None = None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    def _read(self) -> None:
        while self._connection.poll():
            message = self._connection.receive()
            if isinstance(message, Work):
                self._accept(message)
            else:
                self._next_message = message
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._next_message is not None and not self._running and not self._queued:
            self._end()

    def _beat(self) -> None:
        """Note in the flight recorder that the loop turns, now and from time to time."""
        if self._batch_timeout_s is None or self._over is None:
            return
        if self._running:
            now = time.monotonic()
            longest = min(self._running.values(), key=lambda batch: batch.began)
            if now - longest.began > 2 * self._batch_timeout_s:
                self._note(longest.batch_id, longest.began)
                self._is_stuck = True
                return
            self._recorder.note_batch(self._noted, now)
        asyncio.get_running_loop().call_later(self._batch_timeout_s / _BEATS, self._beat)

    async def _cancel_running(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CANCEL_S)

    # ---- batches -------------------------------------------------------------------------------------------

    def _accept(self, work: Work) -> None:
        for segment in self._inbox.accept(work):
            self._pool.keep(segment)
        self._queued.extend(zip(work.batch_ids, work.counts, strict=True))
        self._fill()

    def _fill(self) -> None:
        while self._queued and len(self._running) < self._limit:
            self._begin(*self._queued.popleft())

    def _begin(self, batch_id: int, count: int) -> None:
        received = time.monotonic()
        self._account(received)
        self._note(batch_id, received)
        self._session.phase = _RECEIVE
        try:
            tasks, input_bytes = self._inbox.take(count)
            began = time.monotonic()
            self._session.phase = _PROCESS
            if not self._running:
                self._probe.before_batch()
        except BaseException as error:  # noqa: BLE001 - unpickling runs any code
            self._fail(batch_id, error)
            return
        self._receive_s += began - received
        task_ids = [task.task_id for task in tasks]
        running = _Running(batch_id, tasks, task_ids, input_bytes, self._inbox.detach(), began)
        task = asyncio.get_running_loop().create_task(_Steps(self._call(running), self, batch_id))
        self._running[task] = running
        task.add_done_callback(lambda task: self._guarded(self._done, task))

    async def _call(self, batch: _Running) -> tuple[list[Any], Any, list[str], float]:
        """Return the outputs of a batch, its stats, the ids of failed tasks, and when it was done."""
        limit = asyncio.timeout(self._batch_timeout_s)
        try:
            async with limit:
                outputs = await self._adapter.call(batch.tasks)
                return outputs, self._adapter.last_stats, self._adapter.last_failed, time.monotonic()
        except TimeoutError:
            if not limit.expired():
                raise  # the stage's own
            raise BatchTimedOut(
                f"it took longer than batch_timeout_s = {self._batch_timeout_s:g} s and was cancelled"
            ) from None

    def _done(self, task: asyncio.Task[Any]) -> None:
        batch = self._running[task]
        if self._over is None or self._over.done():
            if not task.cancelled():
                task.exception()  # which asyncio would log, if nobody asked for it
            return  # its worker ends
        self._account(time.monotonic())
        del self._running[task]
        if self._in_forked_child:
            raise self._not_the_worker()
        try:
            self._finish(batch, *_result_of(task))
        except BaseException as error:  # noqa: BLE001 - whatever the stage raised, the driver is told
            self._fail(batch.batch_id, error)
        if not self._running and not self._sigterm_received and not self._is_stuck:
            self._recorder.note_idle()
        self._fill()
        self._end_if_done()
        if not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._guarded, self._flush)  # with all that are done in this turn

    def _finish(self, batch: _Running, outputs: list[Any], stats: Any, failed: list[str], processed: float) -> None:
        self._probe.check_share()
        self._part_stats = [stats]
        metrics, items = self._batch_metrics(batch.input_bytes)
        batch.tasks.clear()  # frees memory for the outputs
        began_to_return = time.monotonic()
        self._session.phase = _RETURN
        parents = parents_of(batch.task_ids, [task.task_id for task in outputs])
        output_bytes = self._outbox.add(batch.batch_id, outputs, parents)
        if failed:
            self._outbox.note_failed(batch.batch_id, parents_of(batch.task_ids, failed))
        done = time.monotonic()
        self._session.phase = _PROCESS
        if self._calls is not None:
            self._calls.begin()
            self._calls.note(0, batch.began, processed, stats)
        self._count(batch, items, output_bytes, processed)
        self._outbox.totals.send_s += done - began_to_return
        self._outbox.totals.ended = self._idle_since = done
        self._inbox.attach(batch.parts)
        self._finish_batch(batch.batch_id, metrics, done)

    def _count(self, batch: _Running, items: int, output_bytes: int, processed: float) -> None:
        totals, own_s = self._outbox.totals, processed - batch.began
        totals.batches += 1
        totals.tasks_in += len(batch.task_ids)
        totals.items += items
        totals.input_bytes += batch.input_bytes
        totals.output_bytes += output_bytes
        totals.began = min(totals.began or batch.began, batch.began)
        totals.slot_s += own_s / self._limit
        totals.note_time(own_s, batch.batch_id)

    def _account(self, now: float) -> None:
        """Account the time since the last call: the worker was busy if anything was in flight, and else idle."""
        totals, elapsed = self._outbox.totals, max(0.0, now - self._idle_since)
        if self._running:
            totals.receive_s += self._receive_s
            totals.process_s += max(0.0, elapsed - self._receive_s)
        else:
            totals.idle_s += elapsed
        self._receive_s, self._idle_since = 0.0, now

    def _fail(self, batch_id: int, error: BaseException) -> None:
        """Tell the driver that a batch failed. Raises `WorkerHalted` if the worker takes no more."""
        if isinstance(error, Terminated):
            raise error
        if isinstance(error, AttributeError):
            self._session.explain_missing_attribute(error)
        self._outbox.drop_unfinished(batch_id)
        halts = self._halts_after(error)
        self._report(error, batch_id, halted=halts)
        self._session.phase = _PROCESS
        if halts:
            raise WorkerHalted from error

    def _halts_after(self, error: BaseException) -> bool:
        return not isinstance(error, BatchTimedOut) and super()._halts_after(error)

    def _flush(self) -> None:
        self._flushes = False
        self._outbox.flush()

    # ---- steps ---------------------------------------------------------------------------------------------

    def begin_step(self, batch_id: int) -> None:
        """Note that code of the stage runs for this batch."""
        self._note(batch_id, time.monotonic())
        self._in_step = True

    def end_step(self) -> None:
        """Note that it has come to an await, or to its end."""
        self._in_step = False

    def _note(self, batch_id: int, now: float) -> None:
        if self._sigterm_received or self._is_stuck:
            return  # what runs now is not what the driver ends the worker for
        self._noted = batch_id
        self._recorder.note_batch(batch_id, now)


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are told to the loop of the worker."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: AsyncLoop, batch_id: int) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._batch_id = batch_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # libraries ask a task's coroutine for its state

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def _step(self, take: Callable[..., Any], *arguments: Any) -> Any:
        self._loop.begin_step(self._batch_id)
        try:
            return take(*arguments)
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the loop with it
            raise StageExited from error
        finally:
            self._loop.end_step()


def _result_of(task: asyncio.Task[Any]) -> Any:
    """Return what a batch's task has come to. Raises what it raised, and ``RuntimeError`` if the stage cancelled it."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, StageExited) and error.__cause__ is not None:
        raise error.__cause__
    return result_of(task)
