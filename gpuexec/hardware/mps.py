"""NVIDIA's Multi-Process Service (MPS), as it is found on this machine.

A control daemon starts a server per user when the first client comes; the clients find it through a folder of pipes.
Source of the file names and defaults: NVIDIA, "Multi-Process Service", appendix on tools and environment variables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from gpuexec.records import Record

MPS_PIPES, MPS_LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PROCESS_NAME = "nvidia-cuda-mps"  # the kernel cuts names at 15 characters: the daemon's, and the server's
DEFAULT_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's

_PID_FILE = "nvidia-cuda-mps-control.pid"


class ControlDaemon(Record):
    """A control daemon that runs. ``pipes``: its folder."""

    pid: int
    pipes: str


def running_daemon(environ: Mapping[str, str]) -> ControlDaemon | None:
    """Return the control daemon that a process with this environment would be a client of, if it runs.

    In a container, one of another pid namespace is not recognised.
    """
    pipes = environ.get(MPS_PIPES) or DEFAULT_PIPES
    pid = daemon_pid(Path(pipes))
    return None if pid is None else ControlDaemon(pid, pipes)


def daemon_pid(pipes: Path) -> int | None:
    """Return the pid of the living control daemon with these pipes."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((pipes / _PID_FILE).read_text())
        if Path(f"/proc/{pid}/comm").read_text().startswith(PROCESS_NAME):
            return pid
    return None
