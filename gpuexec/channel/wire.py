"""Messages on a stream socket.

A frame is ``u8 kind | u8 0 | u16 descriptors | u32 header length | u64 body length``, then the header (JSON) and the
body (inline payloads, one after the other). Descriptors of segments are sent with the first bytes of the frame and
arrive in order, so a reader takes those of each frame from a first-in-first-out queue.

``Sender`` and ``Receiver`` do not block, unless asked to; ``BlockingConnection`` is the worker's end.
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

from gpuexec.channel.messages import BY_KIND, Message
from gpuexec.channel.payload import Inline, Payload, SegmentRef
from gpuexec.channel.segments import Segment
from gpuexec.errors import ConnectionLost
from gpuexec.units import KIB

_HEAD = struct.Struct("<BBHIQ")
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_CHUNK = 256 * KIB
_MAX_FDS = 253  # SCM_MAX_FD: descriptors one sendmsg may carry
_FD_SPACE = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)


def encode_frame(message: Message) -> tuple[bytes, list[Segment]]:
    """Return a message as bytes, and the segments whose descriptors must be sent with it."""
    fields = message.to_tuple()[:-1]  # all but the payloads
    segments: list[Segment] = []
    locations: list[list[int]] = []  # of payloads: [size] or [size, number of its segment, offset, exclusive]
    inline: list[Inline] = []
    for payload in message.payloads:
        if isinstance(payload, SegmentRef):
            if not segments or segments[-1] is not payload.segment:
                segments.append(payload.segment)
            locations.append([payload.length, len(segments) - 1, payload.offset, int(payload.exclusive)])
        else:
            locations.append([len(payload)])
            inline.append(payload)
    header = _to_json([fields, locations]).encode()
    head = _HEAD.pack(message.kind, 0, len(segments), len(header), sum(map(len, inline)))
    return b"".join([head, header, *inline]), segments


class _Outgoing:
    """A frame that is being sent. It keeps its segments open until their descriptors are sent."""

    def __init__(self, message: Message) -> None:
        data, self._segments = encode_frame(message)
        self._view = memoryview(data)

    def send_some(self, sock: socket.socket) -> bool:
        """Make one system call; return whether the whole frame has been sent."""
        now, later = self._segments[:_MAX_FDS], self._segments[_MAX_FDS:]
        # The remaining descriptors are sent with the next byte, so send only one byte now.
        view = self._view[:1] if later else self._view
        self._view = self._view[sock.sendmsg([view], _ancillary(now)) :]
        self._segments = later
        return not self._view


class Sender:
    """The outgoing frames of one non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[_Outgoing] = deque()

    def put(self, message: Message) -> None:
        """Append a message to the queue."""
        self._queue.append(_Outgoing(message))

    def flush(self) -> bool:
        """Send what the socket takes now; return whether everything was sent. Raises ``ConnectionLost``."""
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
        """Drop what has not been sent."""
        self._queue.clear()


class Receiver:
    """The incoming frames of one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._chunk = bytearray(_CHUNK)  # reused: allocating one costs more than reading what it holds
        self._segments: deque[Segment] = deque()

    def receive(self, *, wait: bool = False) -> list[Message]:
        """Read once and return the messages that are now complete.

        Raises ``BlockingIOError`` if there is nothing to read and ``wait`` is not set, and ``ConnectionLost`` at end of
        file.
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
                "this process has reached its limit of open files, so descriptors of shared memory were lost: "
                "raise the limit with `ulimit -n`, or lower queue_tasks"
            )
        if not size:
            raise ConnectionLost("end of file")
        self._buffer += memoryview(self._chunk)[:size]
        return list(self._complete_frames())

    def close(self) -> None:
        """Close the segments of frames that are still incomplete."""
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
    fields, locations = header
    payloads: list[Payload] = []
    start = 0
    for length, *segment in locations:
        if not segment:
            payloads.append(body[start : start + length])
            start += length
        else:
            number, offset, exclusive = segment
            payloads.append(SegmentRef(segments[number], offset, length, bool(exclusive)))
    return BY_KIND[kind].from_json(fields, tuple(payloads))


def _ancillary(segments: list[Segment]) -> list[tuple[int, int, array.array[int]]]:
    if not segments:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fd for s in segments]))]


class BlockingConnection:
    """The worker's end of a connection. Any thread may send; only one may receive."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._receiver = Receiver(sock)
        self._inbox: deque[Message] = deque()
        self._lock = threading.Lock()
        self._disowned = False

    def send(self, message: Message) -> bool:
        """Send a message, waiting until the driver has taken it from the socket.

        Returns ``False`` if the connection is disowned. Raises ``ConnectionLost``.
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
        """Wait for the next message and return it. Raises ``ConnectionLost`` when the driver is gone."""
        while not self._inbox:
            if self._disowned:
                raise ConnectionLost("another process owns the connection")
            self._inbox.extend(self._receiver.receive(wait=True))
        return self._inbox.popleft()

    def poll(self) -> bool:
        """Return whether ``receive`` would return without waiting."""
        if not self._inbox and not self._disowned:
            with contextlib.suppress(BlockingIOError):
                self._inbox.extend(self._receiver.receive())
        return bool(self._inbox)

    def put_back(self, message: Message) -> None:
        """Let ``receive`` return this message next."""
        self._inbox.appendleft(message)

    def fileno(self) -> int:
        """Return the descriptor of the socket, for who waits for several."""
        return self._sock.fileno()

    def disown(self) -> None:
        """Make the connection unusable: a send was cut short, or this is a forked child and its parent owns it."""
        self._disowned = True
        self._inbox.clear()
        self._lock = threading.Lock()
