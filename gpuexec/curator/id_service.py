"""Lets the workers of a run ask an object in the driver, one call at a time.

Each call is a connection of its own: the client sends what it asks, says that this was all, and reads the answer to its
end. So nothing survives between calls that a fork, a thread or a dead process could spoil. A client that dies or stops
in the middle of its request has asked nothing, and holds up nobody.

The address is a name in Linux's abstract namespace, so there is no file to remove and no path that could be too long.
Any user may connect to such a name: both ends look whether the other is this user before they unpickle anything.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from gpuexec.errors import StartRefused

_CHUNK_BYTES = 65_536
_WAITING = 1024  # clients that are not accepted yet; the kernel's own limit may be lower
_ANSWER_S = 10.0  # for a client to take its answer, which is shorter than a socket's buffer
_CLOSE_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

Answer = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]


class IdService:
    """A thread that answers calls until `close`. ``address``: what `ask` needs.

    ``answer`` is called with a method's name and its arguments, in the thread. What it raises is raised in the client.
    Raises ``StartRefused`` if the system refuses a socket or a thread.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._cleanup = contextlib.ExitStack()
        try:
            self._open()
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._cleanup.close()
            raise StartRefused(f"the run cannot start: no socket or thread for the id generator ({error})") from error

    def _open(self) -> None:
        opened = self._cleanup
        self._listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.setblocking(False)
        self.address = f"gpuexec-ids-{secrets.token_hex(16)}"
        self._listener.bind("\0" + self.address)
        self._listener.listen(_WAITING)
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)
        opened.callback(os.close, self._end_fd)
        self._selector = opened.enter_context(selectors.DefaultSelector())
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._end_fd, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="gpuexec-ids", daemon=True)

    def close(self) -> None:
        """End the thread; the call that it answers now is finished first. Safe to repeat."""
        if self._thread.is_alive():
            os.eventfd_write(self._end_fd, 1)
            self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._cleanup.close()

    def _serve(self) -> None:
        requests: dict[socket.socket, bytearray] = {}
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fd == self._end_fd:
                        return
                    if key.fileobj is self._listener:
                        self._accept(requests)
                    else:
                        self._hear(key.fileobj, requests)
        finally:
            for client in requests:
                client.close()

    def _accept(self, requests: dict[socket.socket, bytearray]) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone, or there are no descriptors now: it waits
            return
        if _uid_of(client) != os.getuid():
            client.close()
            return
        client.setblocking(False)
        requests[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _hear(self, client: Any, requests: dict[socket.socket, bytearray]) -> None:
        try:
            chunk = client.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = None
        if chunk:
            requests[client] += chunk
            return
        self._selector.unregister(client)
        request = requests.pop(client)
        with client, contextlib.suppress(OSError):  # it may have died while it waited
            if chunk is not None:
                client.settimeout(_ANSWER_S)
                client.sendall(self._reply(bytes(request)))

    def _reply(self, request: bytes) -> bytes:
        try:
            method, args, kwargs = pickle.loads(request)
        except Exception:  # noqa: BLE001 - a client that died while it sent its request
            return b""
        try:
            return pickle.dumps((True, self._answer(method, args, kwargs)))
        except Exception as error:  # noqa: BLE001 - it is the client's
            return _pickled_error(error)


def ask(address: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a service answers to a call. Raises what it raises, and ``ConnectionError`` if it is gone."""
    try:
        answer = _exchange(address, pickle.dumps((method, args, kwargs)))
    except OSError as error:
        raise ConnectionError(f"the run that serves the id generator is gone ({error})") from error
    if not answer:
        raise ConnectionError("the run that serves the id generator has ended")
    succeeded, value = pickle.loads(answer)
    if succeeded:
        return value
    raise value


def _exchange(address: str, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + address)
        if _uid_of(connection) != os.getuid():
            raise PermissionError("another user has taken its address")
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(_CHUNK_BYTES), b""))


def _uid_of(peer: socket.socket) -> int:
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _pickled_error(error: Exception) -> bytes:
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, its text can be sent
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer
