"""Ending a worker for good, and telling why one ended."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from gpuexec.processes.guardian import Guardian
from gpuexec.processes.spawn import WorkerProcess


def kill_group(worker: WorkerProcess, how: signal.Signals) -> None:
    """Send a signal to a worker and to every process its stage started in its group.

    Safe until the worker is reaped: until then its number cannot belong to anybody else.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, how)


def reap(worker: WorkerProcess, guardian: Guardian) -> int:
    """Kill what is left of a worker's group, reap the worker and return its exit code (-N: signal N)."""
    kill_group(worker, signal.SIGKILL)
    code = worker.process.wait()
    guardian.forget(worker.pid)
    return code


def is_stopped(worker: WorkerProcess) -> bool:
    """Whether a signal or a debugger holds a worker that is not reaped yet: it runs no code, handlers included."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("T", "t")
    return False


def describe_exit(exit_code: int, *, oom_kills: int | None, rss_peak_bytes: int | None = None) -> str:
    """Say in one line how a process ended; "probably" only where there is evidence.

    ``oom_kills``: how many kills the memory controller of our cgroup counted while it ran (``None``: the
    counter cannot be read). ``rss_peak_bytes``: most resident memory up to its last batch, if it had one.
    """
    if exit_code >= 0:
        hint = {
            0: " although it was not asked to stop (did the stage call os._exit, or end the interpreter?)",
            1: " (an error outside the stage's own code; see its last lines)",
            143: ": somebody else sent it SIGTERM",
        }
        return f"it exited with code {exit_code}{hint.get(exit_code, '')}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    text = f"killed by {name} (signal {-exit_code})"
    if -exit_code != signal.SIGKILL:
        return text
    if oom_kills:
        text += f", probably by the out-of-memory killer: the cgroup counted {oom_kills} kill(s) meanwhile"
    elif oom_kills == 0:
        text += "; the cgroup's out-of-memory counter did not move, so somebody sent it"
    if rss_peak_bytes is not None:
        text += f"; up to its last batch it had held at most {rss_peak_bytes / 2**20:,.0f} MiB of memory"
    return text
