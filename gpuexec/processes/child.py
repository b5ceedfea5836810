"""A worker's process as its driver handles it, whether the driver started it itself or a template forked it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Protocol

from gpuexec.processes.exit_watch import ExitWatch
from gpuexec.records import Record
from gpuexec.units import KIB


class Ended(Record):
    """How a process ended, and what it has used, together with the children that it waited for.

    ``code``: negative for a signal. ``cause``: why, in words, if that is not what the code says. ``lost_template``: it
    ended because its template did.
    """

    code: int
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    cause: str | None = None
    lost_template: bool = False


class Child(Protocol):
    """A process that is not reaped yet. ``exit_fd`` becomes readable when it exits."""

    pid: int
    exit_fd: int

    def kill(self) -> None:
        """Send SIGKILL. Harmless once it is reaped."""

    def wait(self) -> Ended:
        """Wait for its exit and reap it."""

    def close(self) -> None:
        """Close the descriptor, once it is reaped."""


class SpawnedChild:
    """A child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        try:
            self._exit = ExitWatch(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise
        self.exit_fd = self._exit.fd

    def kill(self) -> None:
        """Send SIGKILL. Harmless once it is reaped."""
        self._process.send_signal(signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait for its exit and reap it."""
        if self._process.returncode is not None:
            return Ended(self._process.returncode)
        try:
            _, status, used = os.wait4(self.pid, 0)
        except ChildProcessError:  # somebody else in this program has reaped it; `wait` knows what to make of that
            return Ended(self._process.wait())
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(self._process.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss * KIB)

    def close(self) -> None:
        """Close the descriptor, once it is reaped."""
        self._exit.close()
