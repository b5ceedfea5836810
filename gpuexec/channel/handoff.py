"""Requests with descriptors, between a driver and its template processes: one packet each, in JSON.

The socket keeps the boundaries of packets, so nothing is ever read in part.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.errors import ConnectionLost
from gpuexec.units import MIB

_LARGEST = MIB  # bytes: a request lists modules, a search path and a few variables
_MOST_DESCRIPTORS = 8


def handoff_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of such a connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    return ours, theirs


def send(sock: socket.socket, content: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send a packet; the receiver gets duplicates of the descriptors. Raises ``ConnectionLost``, or another
    ``OSError`` if it is too large."""
    try:
        socket.send_fds(sock, [json.dumps(content).encode()], list(fds))
    except ConnectionError as error:
        raise ConnectionLost(str(error)) from error


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a packet, as long as the socket's timeout says. Raises ``ConnectionLost``, also at end of file, and
    ``TimeoutError``."""
    try:
        data, fds, _, _ = socket.recv_fds(sock, _LARGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise ConnectionLost(str(error)) from error
    if not data:
        raise ConnectionLost("end of file")
    return json.loads(data), fds
