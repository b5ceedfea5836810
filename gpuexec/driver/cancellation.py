"""Ends a run at the wish of another thread, or of the asyncio task that waits for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from gpuexec.errors import RunCancelled

_POLL_S = 0.25  # nothing wakes a thread when the asyncio task around it is cancelled


class Cancellation:
    """The wish to end one run. Create it in the thread that runs it; ``request`` may be called from any thread.

    ``fileno`` becomes readable at ``request``, so that a waiting driver wakes up. Call ``close`` at the end of the run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = threading.Event()
        self._raised = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.by_own_task = False  # it was cancelled because the coroutine that called us was
        self._task_is_cancelled, self._is_own_task = _watched_task()
        self._next_poll = 0.0

    def request(self) -> None:
        """End the run. Harmless if it has ended, or if this was called before."""
        self._requested.set()
        with self._lock:  # once closed, its number may belong to another file
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._wake_fd

    @property
    def next_poll(self) -> float | None:
        """When to call `check` next, if nothing else happens; ``None``: ``fileno`` says when."""
        return self._next_poll if self._task_is_cancelled is not None else None

    def on_readable(self) -> None:
        """Take note of a wake-up: `check` follows."""
        os.eventfd_read(self._wake_fd)

    def check(self) -> None:
        """Raise ``RunCancelled`` if the run is to end. It is raised once: ending takes its own time then."""
        if self._raised:
            return
        if self._task_is_cancelled is not None and time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + _POLL_S
            if self._task_is_cancelled():
                self.by_own_task = self._is_own_task
                self._requested.set()
        if self._requested.is_set():
            self._raised = True
            self._task_is_cancelled = None
            raise RunCancelled("the run was cancelled")

    def sleep(self, seconds: float) -> None:
        """Sleep before the run has begun. Raises ``RunCancelled`` as `check` does."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            self._requested.wait(min(left, _POLL_S))
        self.check()

    def close(self) -> None:
        """Release the descriptor."""
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1


def _watched_task() -> tuple[Callable[[], bool] | None, bool]:
    """Return what tells whether the asyncio task around the caller is cancelled, and whether the caller is in it.

    ``None`` if there is no such task. The task is the current one, if a coroutine calls us directly (its event loop
    stands still then, but a signal or another thread can cancel it), or the one that awaits this thread's work, as
    ``asyncio.to_thread`` and ``loop.run_in_executor`` have it.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None, False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return _awaiting_task(), False
    if task is None:
        return None, False
    before = task.cancelling()
    return (lambda: bool(task.cancelling() > before)), True


def _awaiting_task() -> Callable[[], bool] | None:
    """Find the thread pool's work item that this thread is at.

    asyncio passes a cancellation on to the pool's future, which refuses it because it is running, and that is all. The
    pool's future knows the cancelled asyncio future only through the callback that would have passed on its result.
    """
    pools = sys.modules.get("concurrent.futures.thread")
    if pools is None:
        return None
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        item = frame.f_locals.get("self") if frame.f_code is pools._WorkItem.run.__code__ else None
        if item is not None:
            future = item.future
            return lambda: any(map(_passes_on_to_cancelled, tuple(getattr(future, "_done_callbacks", ()))))
    return None


def _passes_on_to_cancelled(callback: object) -> bool:
    names = getattr(getattr(callback, "__code__", None), "co_freevars", ())
    if "destination" not in names:
        return False
    destination = callback.__closure__[names.index("destination")].cell_contents  # type: ignore[attr-defined]
    return bool(destination.cancelled())
