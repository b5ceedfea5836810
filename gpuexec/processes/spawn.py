"""A worker's process, and how one is spawned as a fresh interpreter."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping

from gpuexec.channel.messages import LogLine, PrintsFor
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.processes.child import Child, SpawnedChild
from gpuexec.processes.interpreter import start_interpreter
from gpuexec.processes.output_lines import OutputItem, OutputLines
from gpuexec.units import KIB

_MAX_LAST_LINES = 40
_OUTPUT_CHUNK_BYTES = 64 * KIB
_READS_OF_A_PIPE = 4  # until a full pipe is empty


def spawn(
    socket_fd: int, recorder_fd: int, output_fd: int, *, env: Mapping[str, str], folder: str | None = None
) -> Child:
    """Start a worker as a fresh interpreter."""
    return SpawnedChild(start_interpreter([], [socket_fd, recorder_fd], output_fd, env, folder))


class WorkerProcess:
    """One worker's process and the driver's descriptors for it; ``close`` releases them.

    ``start`` starts it, given the worker's socket, the descriptor of its flight recorder and that of its output.

    ``sock`` carries messages. ``output_fd`` carries what the process prints, stdout and stderr in order. ``exit_fd``
    becomes readable when the process exits. ``recorder`` says which batch the worker is processing.
    """

    def __init__(self, worker_id: str, start: Callable[[int, int, int], Child]) -> None:
        self.worker_id = worker_id
        self.last_lines: deque[str] = deque(maxlen=_MAX_LAST_LINES)
        self._lines = OutputLines()
        with contextlib.ExitStack() as undo:
            self.sock, worker_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(self.sock.close)
            with worker_sock:
                self.recorder = FlightRecorder.create()
                undo.callback(self.recorder.close)
                self.output_fd, write_end = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, self.output_fd)
                try:
                    self.process = start(worker_sock.fileno(), self.recorder.fd, write_end)
                finally:
                    os.close(write_end)
            undo.pop_all()
        self.sock.setblocking(False)
        os.set_blocking(self.output_fd, False)
        self.exit_fd = self.process.exit_fd

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self.process.pid

    def read_output(self) -> tuple[list[OutputItem], bool]:
        """Return what was printed and logged since the last call, and whether the pipe is still open; never blocks."""
        chunk = self._read_chunk()
        if chunk is None:
            return [], True
        return self._remember(self._lines.feed(chunk) if chunk else self._lines.end()), bool(chunk)

    def read_rest(self) -> list[OutputItem]:
        """Return what a process that has ended left in the pipe, with a last line that has no end.

        At most one pipe buffer is read: processes that it started may never stop printing.
        """
        items: list[OutputItem] = []
        for _ in range(_READS_OF_A_PIPE):
            chunk = self._read_chunk()
            if not chunk:
                break
            items += self._lines.feed(chunk)
        return self._remember(items + self._lines.end())

    def _read_chunk(self) -> bytes | None:
        try:
            return os.read(self.output_fd, _OUTPUT_CHUNK_BYTES)
        except BlockingIOError:
            return None

    def _remember(self, items: list[OutputItem]) -> list[OutputItem]:
        for item in items[-_MAX_LAST_LINES:]:
            if not isinstance(item, PrintsFor):
                self.last_lines.append(f"{item.level}: {item.text}" if isinstance(item, LogLine) else item)
        return items

    def close(self) -> None:
        """Close the socket, the recorder, the pipe and the exit watch. The process must have been reaped."""
        self.sock.close()
        self.recorder.close()
        os.close(self.output_fd)
        self.process.close()
