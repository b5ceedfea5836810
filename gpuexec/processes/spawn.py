"""Starts worker processes: builds the environment, then starts a new interpreter with ``-m gpuexec.worker``."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import site
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from gpuexec.channel.messages import LogLine, PrintsFor
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.contract.allocation import Allocation
from gpuexec.processes.child import Child, SpawnedChild
from gpuexec.processes.interpreter import interpreter
from gpuexec.processes.output_lines import OutputItem, OutputLines
from gpuexec.processes.variables import gpu_memory_limits, thread_caps
from gpuexec.units import KIB

P = ParamSpec("P")
T = TypeVar("T")

_MAX_LAST_LINES = 40
_OUTPUT_CHUNK_BYTES = 64 * KIB
_READS_OF_A_PIPE = 4  # until a full pipe is empty


def worker_environment(base: Mapping[str, str], allocation: Allocation, env_vars: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: the driver's, plus thread counts, the stage's own variables and GPU pinning.

    Thread counts follow the CPU share and the GPU memory that a library takes follows the GPU share, unless the user
    has set them. Without them, libraries would start a thread per core in every worker. ``env_vars`` override
    everything except the GPU pinning.
    """
    given = {**base, **env_vars}
    env = {**thread_caps(allocation.cpus), **gpu_memory_limits(allocation, given), **given}
    env["CUDA_VISIBLE_DEVICES"] = allocation.cuda_visible_devices
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if not _is_installed():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [_package_root(), env.get("PYTHONPATH")]))
    return env


def working_directory() -> str | None:
    """Return the working directory; ``None`` if it has been removed, so that it has no name."""
    try:
        return os.getcwd()  # noqa: PTH109 - it is for a process to start in
    except FileNotFoundError:
        return None


def _package_root() -> str:
    return str(Path(__file__).parents[2])


def _is_installed() -> bool:
    return _package_root() in site.getsitepackages()


def _call_in_permanent_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread that lives as long as this process.

    The kernel kills a worker when the *thread* that started it ends (see ``worker/orphan.py``), and the caller may
    consume ``execute_iter`` in a thread of any lifetime.
    """
    if threading.current_thread() is threading.main_thread():
        return function(*args, **kwargs)
    return _permanent_thread().call(functools.partial(function, *args, **kwargs))


class _CallingThread:
    """A thread that calls functions for others.

    No thread pool: those take no work once the main thread has ended, while other threads still run. A daemon, so that
    it delays no exit.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="gpuexec-spawn", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """Call the function there; return what it returns, or raise what it raises."""
        answers: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
        self._calls.put((function, answers))
        value, error = answers.get()
        if error is not None:
            raise error
        return value

    def _work(self) -> None:
        while True:
            function, answers = self._calls.get()
            try:
                answers.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                answers.put((None, error))
            del function, answers


@functools.cache
def _permanent_thread() -> _CallingThread:
    return _CallingThread()


os.register_at_fork(after_in_child=_permanent_thread.cache_clear)  # a child has none of its parent's threads


def start_interpreter(
    arguments: Sequence[str], fds: Sequence[int], output_fd: int, env: Mapping[str, str], folder: str | None
) -> subprocess.Popen[bytes]:
    """Start ``-m gpuexec.worker`` in a process group of its own, which Ctrl-C does not reach.

    ``folder``: its working directory (``None``: the one of this process).
    """
    return _call_in_permanent_thread(_start_interpreter, arguments, fds, output_fd, env, folder)


def _start_interpreter(
    arguments: Sequence[str], fds: Sequence[int], output_fd: int, env: Mapping[str, str], folder: str | None
) -> subprocess.Popen[bytes]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # -E and -I would hide the hash seed; `variables_of_run` has done their work.
    flags = ["-s" if flag == "-I" else flag for flag in flags if flag != "-E"]
    # Without -P, -m would look in the working directory first, where a file may be called like a standard module. The
    # worker gets the driver's sys.path once it is running, so the stage's own imports are as in the driver.
    return subprocess.Popen(
        [interpreter(), *flags, "-P", "-m", "gpuexec.worker", *arguments, *map(str, fds), str(os.getpid())],
        env=dict(env),
        cwd=folder if folder and Path(folder).is_dir() else None,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=subprocess.STDOUT,
        pass_fds=fds,
        process_group=0,  # so Ctrl-C reaches the driver only, and one kill also reaches what the stage started
    )


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
