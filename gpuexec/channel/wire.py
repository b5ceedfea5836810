"""Messages on a stream socket.

A frame is ``u8 kind | u8 0 | u16 descriptors | u32 header length | u64 body length``, then the header
(JSON) and the body (inline payloads, one after the other). Descriptors of segments ride with the frame's
first bytes and arrive in order, so a reader takes each frame's share from a first-in-first-out queue.

``Sender`` and ``Receiver`` never block by themselves; ``BlockingConnection`` is the worker's end.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from gpuexec.channel.messages import BY_KIND, Inline, Message, Payload
from gpuexec.channel.segments import Segment, SegmentRef
from gpuexec.errors import ConnectionLost
from gpuexec.units import KIB

_HEAD = struct.Struct("<BBHIQ")
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_CHUNK = 256 * KIB
_MAX_FDS = 253  # SCM_MAX_FD: descriptors one sendmsg may carry
_FD_SPACE = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)


def encode_frame(message: Message) -> tuple[bytes, list[Segment]]:
    """Lay out a message; also return the segments whose descriptors must go with it."""
    fields = message.to_tuple()[:-1]  # all but the payloads
    segments: list[Segment] = []
    places: list[list[int]] = []
    inline: list[Inline] = []
    for payload in message.payloads:
        if isinstance(payload, SegmentRef):
            if not segments or segments[-1] is not payload.segment:
                segments.append(payload.segment)
            places.append([payload.length, len(segments) - 1, payload.offset, int(payload.exclusive)])
        else:
            places.append([len(payload)])
            inline.append(payload)
    header = _to_json([fields, places]).encode()
    head = _HEAD.pack(message.kind, 0, len(segments), len(header), sum(map(len, inline)))
    return b"".join([head, header, *inline]), segments


class _Outgoing:
    """A frame on its way; holds its segments until their descriptors are sent."""

    def __init__(self, message: Message) -> None:
        data, self._segments = encode_frame(message)
        self._view = memoryview(data)

    def send_some(self, sock: socket.socket) -> bool:
        """Make one system call; return whether the frame is all sent."""
        now, later = self._segments[:_MAX_FDS], self._segments[_MAX_FDS:]
        # Descriptors that do not fit go with the next byte, so only one byte may go now.
        view = self._view[:1] if later else self._view
        self._view = self._view[sock.sendmsg([view], _ancillary(now)) :]
        self._segments = later
        return not self._view


class Sender:
    """Outgoing frames of one non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[_Outgoing] = deque()

    def put(self, message: Message) -> None:
        """Queue a message behind the others."""
        self._queue.append(_Outgoing(message))

    def flush(self) -> bool:
        """Send what the socket takes now; return whether everything is gone. Raises ``ConnectionLost``."""
        try:
            while self._queue:
                if self._queue[0].send_some(self._sock):
                    self._queue.popleft()
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        return True

    def close(self) -> None:
        """Drop what was not sent."""
        self._queue.clear()


class Receiver:
    """Incoming frames of one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._chunk = bytearray(_CHUNK)  # read into again and again: a fresh one costs more than what it holds
        self._segments: deque[Segment] = deque()

    def receive(self, *, wait: bool = False) -> list[Message]:
        """Read once and return the messages that are now complete.

        Raises ``BlockingIOError`` if there is nothing to read and ``wait`` is not set, ``ConnectionLost``
        at end of file.
        """
        flags_in = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into([self._chunk], _FD_SPACE, flags_in)
        except ConnectionError as error:
            raise ConnectionLost(str(error)) from error
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._segments.extend(Segment(fd, os.fstat(fd).st_size) for fd in fds)
        if flags & socket.MSG_CTRUNC:
            raise OSError(
                "descriptors were lost on the way: the limit of open files is reached "
                "(raise it with `ulimit -n`, or lower queue_tasks)"
            )
        if not size:
            raise ConnectionLost("end of file")
        self._buffer += memoryview(self._chunk)[:size]
        return list(self._complete_frames())

    def close(self) -> None:
        """Close the segments of frames that never became complete."""
        while self._segments:
            self._segments.popleft().close()

    def _complete_frames(self) -> Iterator[Message]:
        position, buffer = 0, self._buffer
        while len(buffer) - position >= _HEAD.size:
            kind, _, n_fds, header_length, body_length = _HEAD.unpack_from(buffer, position)
            end = position + _HEAD.size + header_length + body_length
            if end > len(buffer):
                break
            header_start = position + _HEAD.size
            header = json.loads(buffer[header_start : header_start + header_length])
            body = memoryview(bytes(buffer[header_start + header_length : end]))
            segments = [self._segments.popleft() for _ in range(n_fds)]
            yield _decode_frame(kind, header, body, segments)
            position = end
        del buffer[:position]


def _decode_frame(kind: int, header: Any, body: memoryview, segments: list[Segment]) -> Message:
    fields, places = header
    payloads: list[Payload] = []
    at = 0
    for place in places:
        if len(place) == 1:
            payloads.append(body[at : at + place[0]])
            at += place[0]
        else:
            length, number, offset, exclusive = place
            payloads.append(SegmentRef(segments[number], offset, length, bool(exclusive)))
    return BY_KIND[kind](*fields, payloads=tuple(payloads))


def _ancillary(segments: list[Segment]) -> list[tuple[int, int, array.array[int]]]:
    if not segments:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fd for s in segments]))]


class BlockingConnection:
    """The worker's end: sends from any thread, receives in one."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._receiver = Receiver(sock)
        self._inbox: deque[Message] = deque()
        self._lock = threading.Lock()
        self._disowned = False

    def send(self, message: Message) -> bool:
        """Send a message, waiting as long as the driver takes nothing; ``False`` if disowned.

        Raises ``ConnectionLost``.
        """
        outgoing = _Outgoing(message)
        with self._lock:
            if self._disowned:
                return False
            try:
                while not outgoing.send_some(self._sock):
                    pass
            except OSError as error:
                raise ConnectionLost(str(error)) from error
        return True

    def receive(self) -> Message:
        """Return the next message, waiting for it. Raises ``ConnectionLost`` when the driver is gone."""
        while not self._inbox:
            if self._disowned:
                raise ConnectionLost("another process owns the connection")
            self._inbox.extend(self._receiver.receive(wait=True))
        return self._inbox.popleft()

    def poll(self) -> bool:
        """Whether ``receive`` would return without waiting."""
        if not self._inbox and not self._disowned:
            with contextlib.suppress(BlockingIOError):
                self._inbox.extend(self._receiver.receive())
        return bool(self._inbox)

    def disown(self) -> None:
        """Say and hear nothing more: half a frame may be on its way, or a forked child's parent owns the socket."""
        self._disowned = True
        self._inbox.clear()
        self._lock = threading.Lock()
