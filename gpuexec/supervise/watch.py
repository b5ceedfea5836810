"""The driver's one wait point: messages, output and ends of all workers in one selector."""

from __future__ import annotations

import enum
import selectors
from collections.abc import Hashable
from typing import Protocol

from gpuexec.supervise import interrupts
from gpuexec.supervise.spawn import WorkerProcess


class Happening(enum.Enum):
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
        self._selector.register(worker.output_fd, selectors.EVENT_READ, (key, Happening.OUTPUT))
        self._selector.register(worker.pidfd, selectors.EVENT_READ, (key, Happening.EXIT))

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

    def wait(self, timeout: float | None) -> list[tuple[Hashable, Happening]]:
        """Block until something happens, at most ``timeout`` seconds; ends are reported last.

        So whatever a worker said before it died is heard first.
        """
        happenings: list[tuple[Hashable, Happening]] = []
        exits: list[tuple[Hashable, Happening]] = []
        with interrupts.admitted():
            ready = self._selector.select(timeout)
        for selected, events in ready:
            key, what = selected.data
            if what is Happening.EXIT:
                exits.append((key, what))
            elif what is Happening.OUTPUT:
                happenings.append((key, what))
            else:
                if events & selectors.EVENT_READ:
                    happenings.append((key, Happening.MESSAGE))
                if events & selectors.EVENT_WRITE:
                    happenings.append((key, Happening.WRITABLE))
        return happenings + exits

    def close(self) -> None:
        """Release the selector."""
        self._selector.close()

    def _forget(self, descriptor: object) -> None:
        try:
            self._selector.unregister(descriptor)  # type: ignore[arg-type]
        except (KeyError, ValueError):
            return
