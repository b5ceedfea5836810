"""What the driver does while Ray works: it takes finished blocks, reads the ledger, and ends the run if it must end."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from gpuexec.driver.cancellation import Cancellation
from gpuexec.driver.exceptions import stage_exception
from gpuexec.errors import TooManyQuarantined, WorkerDied
from gpuexec.executors.ray.nodes import end_processes
from gpuexec.executors.ray.notes import RunFailed
from gpuexec.executors.ray.ray_events import RayEvents

_POLL_S = 0.25
_BUNDLES_AHEAD = 8  # of finished blocks, that wait for the caller
_STOP_S = 2.0  # for what is at work when the run is ended: then its process is killed
_KILLED_S = 10.0


class Consumer:
    """Takes the finished blocks of a dataset in a thread, so that the driver is free for everything else."""

    def __init__(self, dataset: Any, *, fetches: bool) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_BUNDLES_AHEAD)
        self._stopping = threading.Event()
        self._fetches = fetches
        self._thread = threading.Thread(target=self._run, args=(dataset,), name="gpuexec-ray", daemon=True)

    def blocks(self, watch: Watch) -> Iterator[tuple[Any, int]]:
        """Yield the blocks, as tables or as references to them, and how many rows each has.

        Raises what ended the run.
        """
        watch.consumer = self._thread
        self._thread.start()
        try:
            while True:
                try:
                    item = self._queue.get(timeout=_POLL_S)
                except queue.Empty:
                    watch.poll()
                    continue
                watch.poll_if_due()
                if item is None:
                    watch.poll()
                    return
                if isinstance(item, BaseException):
                    watch.poll()  # raises what the stage did
                    raise _without_ray_frames(item)
                yield item
        finally:
            self._stopping.set()

    def _run(self, dataset: Any) -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for ref, metadata in zip(bundle.block_refs, bundle.metadata, strict=True):
                    self._put((ray.get(ref) if self._fetches else ref, metadata.num_rows or 0))
                if self._stopping.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - the driver decides what it means
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: Any) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_S)
                return


class Watch:
    """What the driver looks after while Ray works: the ledger, cancellation, progress."""

    def __init__(
        self,
        ledger: Any,
        events: RayEvents,
        names: Sequence[str],
        cancellation: Cancellation,
        gauge_every_s: float,
        tasks_given: int,
    ) -> None:
        self.consumer: threading.Thread | None = None
        self._ledger = ledger
        self._events = events
        self._names = names
        self._cancellation = cancellation
        self._gauge_every_s = gauge_every_s
        self._tasks_given = tasks_given
        self._next_poll = self._next_gauge = 0.0

    def poll_if_due(self) -> None:
        """Poll, if it is time to."""
        if time.monotonic() >= self._next_poll:
            self.poll()

    def poll(self) -> None:
        """Pass on what is new. Raises ``RunCancelled``, and the exception of a stage that ended the run."""
        self._next_poll = time.monotonic() + _POLL_S
        self._cancellation.check()
        notes = ray.get(self._ledger.drain.remote())
        self._events.take(notes)
        for note in notes:
            if isinstance(note, RunFailed):
                raise exception_of(note, self._names)
        if time.monotonic() >= self._next_gauge:
            self._next_gauge = time.monotonic() + self._gauge_every_s
            self._events.gauge(self._tasks_given)

    def wait_for_teardown(self, timeout_s: float) -> None:
        """Wait until the actors have torn down; those of lost nodes are not waited for."""
        deadline = time.monotonic() + timeout_s
        ray.get(self._ledger.stop.remote())  # an actor that is only starting need not set up
        while time.monotonic() < deadline:
            self.poll()
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            if not any(actor and node in living for node, _, actor in self._alive()):
                return
            time.sleep(_POLL_S / 5)
        from loguru import logger

        logger.warning("workers did not tear down within stop_timeout_s={:g}; Ray ends them", timeout_s)

    def end_workers(self) -> None:
        """End what is at work, as fast as can be: ask first, then kill."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._ledger.stop.remote(), timeout=_STOP_S)
            if self._consumer_ends(_STOP_S):
                return
            end_processes([(node, pid) for node, pid, _ in self._alive()])
            self._consumer_ends(_KILLED_S)

    def _consumer_ends(self, timeout_s: float) -> bool:
        if self.consumer is None:
            return True
        if self.consumer.ident is not None:
            self.consumer.join(timeout_s)
        return not self.consumer.is_alive()

    def _alive(self) -> list[tuple[str, int, str | None]]:
        return list(ray.get(self._ledger.alive.remote()).values())


def exception_of(note: RunFailed, names: Sequence[str]) -> BaseException:
    """Return the exception that a run on one node would raise. ``names``: of the stages."""
    stage = names[note.stage_index]
    if note.failed is not None:
        producer = f"stage {names[note.stage_index - 1]!r}" if note.stage_index else "the caller"
        ids = tuple(note.task_ids)
        error = stage_exception(note.failed, stage=stage, producer=producer, worker_id=note.worker_id, task_ids=ids)
    else:
        error = WorkerDied(
            stage=stage,
            worker_id=note.worker_id,
            exit_code=None,
            cause=note.cause or "Ray does not say why",
            phase=note.phase,
            task_ids=note.task_ids,
        )
    if note.too_many is not None:
        many = TooManyQuarantined(note.too_many)
        many.__cause__ = error
        return many
    return error


def _without_ray_frames(error: BaseException) -> BaseException:
    """Return an exception of Ray's own, with a note that says so."""
    if isinstance(error, ray.exceptions.RayError):
        error.add_note("raised by Ray, not by a stage: `ray status` and `ray logs` say more")
    return error.with_traceback(None)
