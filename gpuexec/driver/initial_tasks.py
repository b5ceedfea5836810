"""The caller's tasks, as the driver reads them: from a list, or from an iterator that may be slow or endless."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

_READ_AHEAD = 1024  # tasks read before the driver has asked for them


class InitialTasks(Protocol):
    """Where the driver gets the caller's tasks from."""

    @property
    def left(self) -> int | None:
        """Tasks that are not read yet; ``None`` if unknown."""

    def read_ahead(self, count: int | None) -> None:
        """Read no more than ``count`` tasks before they are taken; ``None``: as many as is usual."""

    def take(self, count: int) -> list[Any] | None:
        """Return up to ``count`` tasks: an empty list if none is ready yet, ``None`` if there will be no more."""


class ListedTasks:
    """Tasks of a list."""

    def __init__(self, tasks: Sequence[Any]) -> None:
        self._tasks = iter(tasks)
        self.left: int | None = len(tasks)

    def read_ahead(self, count: int | None) -> None:
        """Do nothing: the tasks are there."""

    def take(self, count: int) -> list[Any] | None:
        """Return the next tasks."""
        taken = list(itertools.islice(self._tasks, count))
        assert self.left is not None
        self.left -= len(taken)
        return taken or None


class StreamedTasks:
    """Tasks of an iterator, read in a thread, so that the driver goes on while the iterator has nothing ready.

    ``fileno`` becomes readable when ``take`` has something to return again. ``take`` raises what the iterator raises.
    """

    left = None

    def __init__(self, tasks: Iterator[Any]) -> None:
        self._tasks = tasks
        self._ready: deque[Any] = deque()
        self._has_space = threading.Event()
        self._lock = threading.Lock()
        self._wanted = True  # the driver found nothing and waits to be woken
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._max_ready = _READ_AHEAD
        self._wake_fd = -1

    def start(self) -> None:
        """Start the reading thread."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # A daemon thread: nothing can end it while it waits in the caller's iterator.
        threading.Thread(target=self._read, name="gpuexec-initial-tasks", daemon=True).start()

    def read_ahead(self, count: int | None) -> None:
        """Let the thread wait once so many tasks are ready. One that it is already waiting for may come on top."""
        max_ready = _READ_AHEAD if count is None else count
        if max_ready != self._max_ready:
            self._max_ready = max_ready
            self._has_space.set()

    def take(self, count: int) -> list[Any] | None:
        """Return up to ``count`` of the tasks that have been read."""
        ended = self._ended  # read first: tasks read before the end are visible then
        if not self._ready:
            self._wanted = True  # set before looking again: a task that arrives now wakes us
        taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        self._has_space.set()
        if taken or not ended:
            return taken
        if self._error is not None:
            raise self._error
        return None

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._wake_fd

    def on_readable(self) -> None:
        """Take note of a wake-up."""
        os.eventfd_read(self._wake_fd)

    def close(self) -> None:
        """Stop reading."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._wake_fd >= 0:
                    os.close(self._wake_fd)
        self._has_space.set()

    def _read(self) -> None:
        try:
            if not self._wait_for_space():
                return
            for task in self._tasks:
                self._ready.append(task)
                self._wake()
                if not self._wait_for_space():
                    return
        except BaseException as error:  # noqa: BLE001 - the caller's iterator may raise anything; `take` raises it
            self._error = error
        self._ended = True
        self._wanted = True
        self._wake()

    def _wait_for_space(self) -> bool:
        """Wait until another task may be read; return False if none is wanted any more."""
        while len(self._ready) >= self._max_ready and not self._closed:
            self._has_space.clear()
            if len(self._ready) >= self._max_ready and not self._closed:
                self._has_space.wait()
        return not self._closed

    def _wake(self) -> None:
        if self._wanted:
            self._wanted = False
            with self._lock:  # once closed, its number may belong to another file
                if not self._closed:
                    os.eventfd_write(self._wake_fd, 1)
