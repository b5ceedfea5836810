"""The address of the socket in a run's folder.

The address of a Unix socket has at most 107 bytes, and the path of a folder may have thousands. So the folder is named
by a descriptor: ``/proc/self/fd/9/live.sock`` is short, and leads to the same file.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

SOCKET = "live.sock"
_MOST_WAITING = 8  # clients that are not accepted yet


def listen(folder: Path) -> socket.socket:
    """Return a socket that listens in the folder and that only this user can connect to. Raises ``OSError``."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(server.fileno(), 0o600)  # Linux gives the file this mode as it is made
        with _short_path(folder) as path:
            server.bind(path)
        server.listen(_MOST_WAITING)
    except BaseException:
        server.close()
        raise
    return server


def connect(folder: Path, timeout_s: float) -> socket.socket:
    """Return a socket connected to the one in the folder. Raises ``OSError``; ``FileNotFoundError`` if there is none.

    ``timeout_s``: for the connection and for each reading.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout_s)
        with _short_path(folder) as path:
            client.connect(path)
    except BaseException:
        client.close()
        raise
    return client


def remove(folder: Path) -> None:
    """Remove the socket's file, if it is there."""
    with contextlib.suppress(OSError):
        (folder / SOCKET).unlink()


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
