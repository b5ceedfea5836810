"""The other end: attaches to a run that goes on, and returns its messages."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gpuexec.errors import CannotAttach
from gpuexec.live import address
from gpuexec.live.protocol import Message, Reader, check_hello

if TYPE_CHECKING:
    from gpuexec.report.store import RunFolderReader

_TIMEOUT_S = 5.0  # for the run's first message; its server answers at once unless the machine is overloaded
_PATIENCE_S = 2.0  # for attempts to attach again
_PAUSE_S = 0.05  # between them


class LiveClient:
    """A connection to the run in ``folder``. ``hello``: what the run says of itself. Close it, or use ``with``.

    Raises ``OSError`` if nobody listens there, and ``CannotAttach`` if what answers is no run of this version.
    """

    def __init__(self, folder: Path, timeout_s: float = _TIMEOUT_S) -> None:
        self._reader = Reader()
        self._ready: list[Message] = []
        self._is_open = True
        self._connection = address.connect(folder, timeout_s)
        try:
            self.hello = self._read_hello()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(self, timeout_s: float) -> Iterator[Message]:
        """Yield the messages that arrive within so many seconds, and return early if the run closes the connection.

        Raises ``CannotAttach`` for what is no message.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            while self._ready:
                yield self._ready.pop(0)
            left = deadline - time.monotonic()
            if left <= 0 or not self._is_open:
                return
            self._receive(left)

    @property
    def is_open(self) -> bool:
        """Whether more messages may come."""
        return self._is_open or bool(self._ready)

    def close(self) -> None:
        """Detach. Another thread may call this: one that waits for messages then returns."""
        self._is_open = False
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read_hello(self) -> Message:
        self._receive(self._connection.gettimeout() or _TIMEOUT_S)
        while self._is_open and not self._ready:
            self._receive(_TIMEOUT_S)
        if not self._ready:
            raise CannotAttach("the run has not said anything: it is stopped, or ends just now")
        first = self._ready.pop(0)
        if "refused" in first:
            raise CannotAttach(f"the run refuses: {first['refused']}")
        return check_hello(first.get("hello"))

    def _receive(self, timeout_s: float) -> None:
        try:
            self._connection.settimeout(timeout_s)
            received = self._connection.recv(1 << 16)
        except TimeoutError:
            if not hasattr(self, "hello"):
                raise CannotAttach(
                    "the run does not answer: its process is stopped, or the machine is overloaded"
                ) from None
            return
        except OSError:  # closed, also by another thread
            received = b""
        if not received:
            self._is_open = False
            return
        try:
            self._ready += self._reader.feed(received)
        except (ValueError, json.JSONDecodeError) as error:
            raise CannotAttach(f"what answers is no run of gpuexec: {error}") from error


def attach(run: RunFolderReader) -> LiveClient:
    """Attach to a run. Raises ``CannotAttach``, which says why that does not go, and what to do instead."""
    try:
        return LiveClient(run.path)
    except OSError as error:
        raise CannotAttach(_why_not(run, error)) from error


def attach_again(run: RunFolderReader, patience_s: float = _PATIENCE_S) -> LiveClient:
    """Attach to a run that has closed the connection. Raises ``CannotAttach``.

    It tries for so many seconds: a process that is killed closes its socket a moment before it gives up the lock that
    says that it lives.
    """
    deadline = time.monotonic() + patience_s
    while True:
        has_ended = not run.is_live
        try:
            return attach(run)
        except CannotAttach:
            if has_ended or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)


def _why_not(run: RunFolderReader, error: OSError) -> str:
    if run.problem is not None:
        return run.problem
    summary = run.summary()
    name = f"run {summary.run_id} of pipeline {summary.pipeline!r}"
    if not run.is_live:
        return f"{name} has ended ({summary.outcome}). What it did: gpuexec report {summary.run_id or run.path}"
    if isinstance(error, FileNotFoundError):
        return (
            f"{name} goes on, but cannot be attached to: it has just begun, or its folder's file system takes no "
            f"sockets. Its log so far: {run.path / 'log.jsonl'}"
        )
    return f"{name} cannot be attached to: {type(error).__name__}: {error}"
