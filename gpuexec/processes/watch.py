"""The driver's one wait point: messages, output and ends of all workers in one selector."""

from __future__ import annotations

import enum
import selectors
from collections.abc import Hashable
from typing import Protocol

from gpuexec.processes import interrupts
from gpuexec.processes.spawn import WorkerProcess


class Readiness(enum.Enum):
    """What a worker's descriptor became ready for."""

    MESSAGE = "message"
    WRITABLE = "writable"
    OUTPUT = "output"
    EXIT = "exit"


class HasFileno(Protocol):
    """Something to select on."""

    def fileno(self) -> int:
        """Its descriptor."""


class Watch:
    """Waits for any number of workers; ``key`` is whatever the caller knows a worker by."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, key: Hashable, worker: WorkerProcess) -> None:
        """Start watching a worker's socket, output and end."""
        self._selector.register(worker.sock, selectors.EVENT_READ, (key, None))
        self._selector.register(worker.output_fd, selectors.EVENT_READ, (key, Readiness.OUTPUT))
        self._selector.register(worker.pidfd, selectors.EVENT_READ, (key, Readiness.EXIT))

    def listen(self, descriptor: HasFileno, key: Hashable) -> None:
        """Also watch a descriptor of the driver's own."""
        self._selector.register(descriptor, selectors.EVENT_READ, (key, None))

    def unlisten(self, descriptor: HasFileno) -> None:
        """Stop watching it, before it is closed."""
        self._forget(descriptor)

    def want_write(self, key: Hashable, worker: WorkerProcess, *, wanted: bool) -> None:
        """Also report when the worker's socket takes data (only while something is queued for it)."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if self._selector.get_key(worker.sock).events != events:
            self._selector.modify(worker.sock, events, (key, None))

    def ignore_messages(self, worker: WorkerProcess) -> None:
        """Stop watching the socket (it reached end of file)."""
        self._forget(worker.sock)

    def ignore_output(self, worker: WorkerProcess) -> None:
        """Stop watching the output pipe (it reached end of file)."""
        self._forget(worker.output_fd)

    def remove(self, worker: WorkerProcess) -> None:
        """Stop watching a worker, before its descriptors are closed."""
        for descriptor in (worker.sock, worker.output_fd, worker.pidfd):
            self._forget(descriptor)

    def wait(self, timeout: float | None) -> list[tuple[Hashable, Readiness]]:
        """Block until something happens, at most ``timeout`` seconds; ends are reported last.

        So whatever a worker said before it died is heard first.
        """
        readiness: list[tuple[Hashable, Readiness]] = []
        exits: list[tuple[Hashable, Readiness]] = []
        with interrupts.admitted():
            ready = self._selector.select(timeout)
        for selected, events in ready:
            key, what = selected.data
            if what is Readiness.EXIT:
                exits.append((key, what))
            elif what is Readiness.OUTPUT:
                readiness.append((key, what))
            else:
                if events & selectors.EVENT_READ:
                    readiness.append((key, Readiness.MESSAGE))
                if events & selectors.EVENT_WRITE:
                    readiness.append((key, Readiness.WRITABLE))
        return readiness + exits

    def close(self) -> None:
        """Release the selector."""
        self._selector.close()

    def _forget(self, descriptor: object) -> None:
        try:
            self._selector.unregister(descriptor)  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return
