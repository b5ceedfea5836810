"""The driver's only wait point: messages, output and exits of all workers in one selector."""

from __future__ import annotations

import enum
import selectors
from collections.abc import Hashable
from typing import Protocol

from gpuexec.processes import interrupts
from gpuexec.processes.spawn import WorkerProcess


class Readiness(enum.Enum):
    """What one of a worker's descriptors is ready for."""

    MESSAGE = "message"
    WRITABLE = "writable"
    OUTPUT = "output"
    EXIT = "exit"


class HasFileno(Protocol):
    """An object with a descriptor that a selector accepts."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Watch:
    """Waits for any number of workers. ``key`` is how the caller identifies a worker."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, key: Hashable, worker: WorkerProcess) -> None:
        """Start watching a worker's socket, output pipe and process."""
        self._selector.register(worker.sock, selectors.EVENT_READ, (key, None))
        self._selector.register(worker.output_fd, selectors.EVENT_READ, (key, Readiness.OUTPUT))
        self._selector.register(worker.exit_fd, selectors.EVENT_READ, (key, Readiness.EXIT))

    def add_reader(self, descriptor: HasFileno, key: Hashable) -> None:
        """Also watch a descriptor that belongs to no worker; `wait` reports it as MESSAGE when it is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, (key, None))

    def remove_reader(self, descriptor: HasFileno) -> None:
        """Stop watching a descriptor of `add_reader`. Call this before closing it."""
        self._unregister(descriptor)

    def watch_writable(self, key: Hashable, worker: WorkerProcess, *, enabled: bool) -> None:
        """Start or stop reporting that a worker's socket accepts data; enable it only while data is queued."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if enabled else 0)
        if self._selector.get_key(worker.sock).events != events:
            self._selector.modify(worker.sock, events, (key, None))

    def ignore_messages(self, worker: WorkerProcess) -> None:
        """Stop watching a worker's socket, which has reached end of file."""
        self._unregister(worker.sock)

    def ignore_output(self, worker: WorkerProcess) -> None:
        """Stop watching a worker's output pipe, which has reached end of file."""
        self._unregister(worker.output_fd)

    def remove(self, worker: WorkerProcess) -> None:
        """Stop watching a worker. Call this before closing its descriptors."""
        for descriptor in (worker.sock, worker.output_fd, worker.exit_fd):
            self._unregister(descriptor)

    def wait(self, timeout: float | None) -> list[tuple[Hashable, Readiness]]:
        """Block until a descriptor is ready, at most ``timeout`` seconds (``None``: no limit).

        Exits come last in the list, so that the messages and output of a dead worker are read first.
        """
        readiness: list[tuple[Hashable, Readiness]] = []
        exits: list[tuple[Hashable, Readiness]] = []
        with interrupts.signals_delivered():
            # After a pause of this whole process (Ctrl-Z, a laptop that sleeps), the first call says that the time is
            # over, although messages wait: their senders would be taken for late.
            ready = self._selector.select(timeout) or self._selector.select(0)
        for selected, events in ready:
            key, kind = selected.data
            if kind is Readiness.EXIT:
                exits.append((key, kind))
            elif kind is Readiness.OUTPUT:
                readiness.append((key, kind))
            else:
                if events & selectors.EVENT_READ:
                    readiness.append((key, Readiness.MESSAGE))
                if events & selectors.EVENT_WRITE:
                    readiness.append((key, Readiness.WRITABLE))
        return readiness + exits

    def close(self) -> None:
        """Release the selector."""
        self._selector.close()

    def _unregister(self, descriptor: object) -> None:
        try:
            self._selector.unregister(descriptor)  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return
