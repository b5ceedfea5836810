"""Killing and reaping a worker, and describing why one exited."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from gpuexec.processes.child import Ended
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.spawn import WorkerProcess
from gpuexec.units import MIB

_ORPHANS_TIMEOUT_S = 0.5  # a killed process exits within milliseconds, unless it is stuck inside the kernel
_ORPHANS_PAUSE_S = 0.002


def kill_group(worker: WorkerProcess, signal_number: signal.Signals) -> None:
    """Send a signal to a worker and to every process in its group, which includes those its stage started.

    Call this only before the worker is reaped: until then the kernel does not reuse its process id.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal_number)


def reap(worker: WorkerProcess, guardian: Guardian) -> Ended:
    """Kill what is left of a worker's process group, reap the worker and return how it ended."""
    kill_group(worker, signal.SIGKILL)
    ended = worker.process.wait()
    _reap_orphans(worker.pid)
    guardian.forget(worker.pid)
    return ended


def _reap_orphans(group: int) -> None:
    """Reap what a worker's killed processes left to this process, which has inherited them.

    That happens if this process is number 1, as in a container, or a subreaper. Nobody else would ever reap them.
    """
    deadline = time.monotonic() + _ORPHANS_TIMEOUT_S
    with contextlib.suppress(ChildProcessError):  # there are none, or no more
        while time.monotonic() < deadline:
            if os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is None:
                time.sleep(_ORPHANS_PAUSE_S)


def is_stopped(worker: WorkerProcess) -> bool:
    """Return whether a signal or a debugger has stopped the worker, so that not even its signal handlers run.

    Call this only before the worker is reaped.
    """
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in ("T", "t")
    return False


def describe_exit(exit_code: int, *, oom_kills: int | None, rss_peak_bytes: int | None = None) -> str:
    """Describe in one line how a process ended; "probably" only where there is evidence.

    ``oom_kills``: how many kills the memory controller of our cgroup counted while the process ran, ``None`` if the
    counter cannot be read. ``rss_peak_bytes``: peak resident memory up to its last finished batch, ``None`` if it
    finished none.
    """
    if exit_code >= 0:
        hint = {
            0: " although nobody asked it to stop (did the stage call os._exit or end the interpreter?)",
            1: " (an error outside the stage's own code; see the last lines it printed)",
            143: ": another process sent it SIGTERM",
        }
        return f"exited with code {exit_code}{hint.get(exit_code, '')}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    text = f"killed by {name} (signal {-exit_code})"
    if -exit_code != signal.SIGKILL:
        return text
    if oom_kills:
        text += f", probably by the out-of-memory killer: the cgroup counted {oom_kills} kill(s) while it ran"
    elif oom_kills == 0:
        text += "; the cgroup counted no out-of-memory kill, so another process sent the signal"
    if rss_peak_bytes is not None:
        text += f"; its memory peaked at {rss_peak_bytes / MIB:,.0f} MiB up to its last finished batch"
    return text
