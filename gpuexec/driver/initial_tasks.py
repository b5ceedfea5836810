"""The caller's tasks, as the driver takes them: from a list, or from an iterator that may be slow or endless."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

_AHEAD = 1024  # tasks read before the driver has asked for them


class InitialTasks(Protocol):
    """Where the driver gets the caller's tasks from."""

    @property
    def left(self) -> int | None:
        """How many there still are; ``None`` if nobody knows."""

    def take(self, count: int) -> list[Any] | None:
        """Return up to ``count`` tasks, none if none is there yet, ``None`` when there will be no more."""


class ListedTasks:
    """Tasks of a list."""

    def __init__(self, tasks: Sequence[Any]) -> None:
        self._tasks = iter(tasks)
        self.left: int | None = len(tasks)

    def take(self, count: int) -> list[Any] | None:
        """Return the next tasks."""
        taken = list(itertools.islice(self._tasks, count))
        assert self.left is not None
        self.left -= len(taken)
        return taken or None


class StreamedTasks:
    """Tasks of an iterator, read in a thread: while it has nothing to give, the driver goes on with the others.

    ``fileno`` becomes readable when ``take`` has something to return again. What the iterator raises, ``take`` raises.
    """

    left = None

    def __init__(self, tasks: Iterator[Any]) -> None:
        self._tasks = tasks
        self._ready: deque[Any] = deque()
        self._room = threading.Event()
        self._lock = threading.Lock()
        self._wanted = True  # the driver has found nothing and wants to be woken
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._wake_fd = -1

    def start(self) -> None:
        """Begin to read."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # A daemon: nothing can end it while it waits in the caller's iterator.
        threading.Thread(target=self._read, name="gpuexec-seeds", daemon=True).start()

    def take(self, count: int) -> list[Any] | None:
        """Return what has been read, up to ``count`` tasks."""
        ended = self._ended  # before looking: what was read before the end is there then
        if not self._ready:
            self._wanted = True  # before looking again: whatever comes now wakes us
        taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        self._room.set()
        if taken or not ended:
            return taken
        if self._error is not None:
            raise self._error
        return None

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._wake_fd

    def heard(self) -> None:
        """Take note of a wake-up."""
        os.eventfd_read(self._wake_fd)

    def close(self) -> None:
        """Read no more."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if self._wake_fd >= 0:
                    os.close(self._wake_fd)
        self._room.set()

    def _read(self) -> None:
        try:
            for task in self._tasks:
                self._ready.append(task)
                self._wake()
                while len(self._ready) >= _AHEAD and not self._closed:
                    self._room.clear()
                    if len(self._ready) >= _AHEAD and not self._closed:
                        self._room.wait()
                if self._closed:
                    return
        except BaseException as error:  # noqa: BLE001 - the caller's iterator may raise anything; `take` raises it
            self._error = error
        self._ended = True
        self._wanted = True
        self._wake()

    def _wake(self) -> None:
        if self._wanted:
            self._wanted = False
            with self._lock:  # the descriptor's number may be another file's once it is closed
                if not self._closed:
                    os.eventfd_write(self._wake_fd, 1)
