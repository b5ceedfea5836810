"""The thread that listens in a run's folder, and sends to whoever attaches what the driver gives it.

The driver never waits for it: it appends to a bounded queue and wakes the thread. The thread never waits for a client
either. A client that reads slowly gets only the newest snapshot and the last lines of the log; one that takes nothing
for half a minute is dropped, and may attach again. While nobody is attached, the thread sleeps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuexec.live import address
from gpuexec.live.log_lines import LogEntry
from gpuexec.live.protocol import Message, encode

MOST_CLIENTS = 16
_PATIENCE_S = 30.0  # for a client that takes nothing
_MOST_QUEUED = 1000  # messages that the thread has not taken from the driver
_MOST_LOG_LINES = 200  # that wait for a client
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_S = 0.1
_CLOSE_S = 1.0  # for the thread to end; it does not wait for clients


class LiveServer:
    """Listens in ``folder``. ``hello``: what the run is. Raises ``OSError`` if it cannot listen there.

    ``attached``: whether there are clients; without any, the driver need not send anything.
    """

    def __init__(self, folder: Path, hello: Message, patience_s: float = _PATIENCE_S) -> None:
        self.attached = False
        self._hello = encode({"hello": hello})
        self._patience_s = patience_s
        self._arrivals = 0  # clients so far, which only the thread counts
        self._arrivals_seen = 0
        self._queue: deque[tuple[str, Any]] = deque(maxlen=_MOST_QUEUED)
        self._clients: dict[int, _Client] = {}  # by descriptor
        self._cleanup = contextlib.ExitStack()  # for the thread to close
        self._thread = threading.Thread(target=self._run, name="gpuexec-live", daemon=True)
        try:
            self._open(folder)
            self._thread.start()
        except RuntimeError as error:
            self._cleanup.close()
            raise OSError(f"the system refuses a thread ({error})") from error
        except BaseException:
            self._cleanup.close()
            raise

    def _open(self, folder: Path) -> None:
        opened = self._cleanup
        self._listener = opened.enter_context(address.listen(folder))
        opened.callback(address.remove, folder)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        opened.callback(os.close, self._wake_fd)
        self._selector = opened.enter_context(selectors.DefaultSelector())
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)

    # ---- in the driver's thread ----------------------------------------------------------------------------

    def takes_newcomers(self) -> bool:
        """Return whether clients have come since the last call: they have not had the log so far."""
        seen, self._arrivals_seen = self._arrivals_seen, self._arrivals
        return seen != self._arrivals_seen

    def send_snapshot(self, snapshot: Message) -> None:
        """Send a snapshot to all clients."""
        self._put("snapshot", snapshot)

    def send_log(self, entries: Sequence[LogEntry]) -> None:
        """Send lines to all clients that have had the log so far."""
        self._put("log", entries)

    def send_log_so_far(self, entries: Sequence[LogEntry]) -> None:
        """Send the last lines to the clients that have not had any."""
        self._put("log so far", entries)

    def close(self, end: Message) -> None:
        """Say how the run ended, to those clients that take it at once, and end the thread."""
        self._put("end", end)
        self._thread.join(_CLOSE_S)

    def _put(self, kind: str, content: Any) -> None:
        self._queue.append((kind, content))
        with contextlib.suppress(OSError):  # the thread has ended
            os.eventfd_write(self._wake_fd, 1)

    # ---- in the server's thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        with self._cleanup:
            try:
                while self._turn():
                    pass
            finally:
                for client in list(self._clients.values()):
                    self._drop(client)

    def _turn(self) -> bool:
        """Wait and do what there is to do; return whether the run goes on."""
        for key, events in self._selector.select(self._patience_s if self._clients else None):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif events & selectors.EVENT_READ:
                self._hear(self._clients[key.fd])
        goes_on = self._take_queue()
        for client in list(self._clients.values()):
            self._serve(client)
        return goes_on

    def _take_queue(self) -> bool:
        while self._queue:
            kind, content = self._queue.popleft()
            if kind == "end":
                for client in self._clients.values():
                    client.add(encode({"end": content}))
                return False
            self._spread(kind, content)
        return True

    def _spread(self, kind: str, content: Any) -> None:
        if kind == "snapshot":
            line = encode({"snapshot": content})
            for client in self._clients.values():
                client.snapshot = line
            return
        for client in self._clients.values():
            if client.has_log is (kind == "log"):
                client.add_log(content)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                time.sleep(_PAUSE_S)  # it waits in the queue, so the next turn comes at once
            return  # else it has gone again
        connection.setblocking(False)
        if len(self._clients) >= MOST_CLIENTS:
            with connection, contextlib.suppress(OSError):
                connection.send(encode({"refused": f"{MOST_CLIENTS} others are attached to this run already"}))
            return
        self._clients[connection.fileno()] = client = _Client(connection, time.monotonic())
        client.add(self._hello)
        self._selector.register(connection, selectors.EVENT_READ)
        self._arrivals += 1
        self.attached = True

    def _hear(self, client: _Client) -> None:
        """Take notice of a client's end. What it says is not read further."""
        try:
            is_open = bool(client.connection.recv(4096))
        except BlockingIOError:
            return
        except OSError:
            is_open = False
        if not is_open:
            self._drop(client)

    def _serve(self, client: _Client) -> None:
        now = time.monotonic()
        try:
            client.send(now)
        except OSError:
            self._drop(client)
            return
        if client.waits and now - client.took_at > self._patience_s:
            self._drop(client)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waits else 0)
        if self._selector.get_key(client.connection).events != wanted:
            self._selector.modify(client.connection, wanted)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()
        self.attached = bool(self._clients)


class _Client:
    """One that is attached. ``snapshot``: the newest one, not sent yet. ``took_at``: when it took something last."""

    def __init__(self, connection: socket.socket, now: float) -> None:
        self.connection = connection
        self.snapshot: bytes | None = None
        self.has_log = False
        self.took_at = now
        self._sending = b""  # the rest of what was begun
        self._log: deque[LogEntry] = deque(maxlen=_MOST_LOG_LINES)
        self._missing = 0

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._sending or self._log or self.snapshot)

    def add(self, line: bytes) -> None:
        """Send a message after what was begun."""
        self._sending += line

    def add_log(self, entries: Sequence[LogEntry]) -> None:
        """Send these lines; where too many wait, the oldest are left out."""
        self.has_log = True
        self._missing += max(0, len(self._log) + len(entries) - _MOST_LOG_LINES)
        self._log.extend(entries)

    def send(self, now: float) -> None:
        """Send as much as it takes now. Raises ``OSError`` if it is gone."""
        if not self.waits:
            self.took_at = now
        while self.waits:
            if not self._sending:
                self._begin()
            try:
                sent = self.connection.send(self._sending)
            except BlockingIOError:
                return
            self._sending = self._sending[sent:]
            self.took_at = now

    def _begin(self) -> None:
        if self.snapshot is not None:
            self._sending, self.snapshot = self.snapshot, None
        if self._log:
            self._sending += encode({"log": list(self._log), "missing": self._missing})
            self._log.clear()
            self._missing = 0
