"""Starts worker processes: environment first, then a fresh interpreter by module name."""

from __future__ import annotations

import functools
import os
import site
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from gpuexec.channel.recorder import FlightRecorder
from gpuexec.plan.model import WorkerGrant
from gpuexec.units import KIB

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")

THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_LAST_LINES = 40
_OUTPUT_CHUNK = 64 * KIB
_LONGEST_LINE = 16 * KIB


def worker_environment(base: Mapping[str, str], grant: WorkerGrant, env_vars: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: the driver's, the pinning, the thread caps, the stage's own variables.

    Thread caps follow the CPU share, ``max(1, floor(cpus))``, unless the user has set them: BLAS libraries
    start a thread per core in every worker otherwise. ``env_vars`` win over everything but the pinning.
    """
    threads = str(max(1, int(grant.allocation.cpus)))
    env = {**dict.fromkeys(THREAD_CAPS, threads), **base, **env_vars}
    env["CUDA_VISIBLE_DEVICES"] = grant.allocation.cuda_visible_devices
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if not _is_installed():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [_package_root(), env.get("PYTHONPATH")]))
    return env


def _package_root() -> str:
    return str(Path(__file__).parents[2])


def _is_installed() -> bool:
    return _package_root() in site.getsitepackages()


def _in_lasting_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call it in a thread that lives as long as this process: the kernel kills a worker when the *thread* ends that
    started it (see ``worker/orphan.py``), and a stream may be taken from in any thread."""
    if threading.current_thread() is threading.main_thread():
        return function(*arguments, **named)
    return _lasting_thread().submit(function, *arguments, **named).result()


@functools.cache
def _lasting_thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpuexec-spawn")


def _start_interpreter(passed: Sequence[int], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return subprocess.Popen(
        [sys.executable, *flags, "-m", "gpuexec.worker", *map(str, passed), str(os.getpid())],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=passed,
        process_group=0,  # Ctrl-C reaches the driver only; and one kill reaches what the stage started
    )


class WorkerProcess:
    """One child process and everything the driver holds of it; ``close`` releases all of it.

    ``sock`` carries messages, ``output_fd`` what the process prints (stdout and stderr in order),
    ``pidfd`` becomes readable when it ends, ``recorder`` tells which batch the worker is at.
    """

    def __init__(self, worker_id: str, env: Mapping[str, str]) -> None:
        self.worker_id = worker_id
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._partial = b""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.recorder = FlightRecorder.create()
        try:
            self.process = _in_lasting_thread(_start_interpreter, [theirs.fileno(), self.recorder.fd], env)
            self._open()
        except BaseException:
            self._close_on_failure()
            raise
        finally:
            theirs.close()

    def _open(self) -> None:
        self.sock.setblocking(False)
        assert self.process.stdout is not None
        self.output_fd = self.process.stdout.fileno()
        os.set_blocking(self.output_fd, False)
        self.pidfd = os.pidfd_open(self.process.pid)

    def _close_on_failure(self) -> None:
        self.sock.close()
        self.recorder.close()
        process: subprocess.Popen[bytes] | None = getattr(self, "process", None)
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self.process.pid

    def read_output(self) -> tuple[list[str], bool]:
        """Return the lines printed since, and whether the pipe is still open."""
        try:
            chunk = os.read(self.output_fd, _OUTPUT_CHUNK)
        except BlockingIOError:
            return [], True
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        if len(self._partial) > _LONGEST_LINE or (not chunk and self._partial):
            whole.append(self._partial)
            self._partial = b""
        lines = [line.decode(errors="replace").rstrip("\r") for line in whole]
        self.last_lines.extend(lines)
        return lines, bool(chunk)

    def close(self) -> None:
        """Close the socket, the pipe and the pidfd. The process must have been reaped."""
        self.sock.close()
        self.recorder.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self.pidfd)
