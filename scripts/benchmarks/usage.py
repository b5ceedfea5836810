"""CPU time and memory of a measurement's processes, its descendants included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import threading
import time
from pathlib import Path
from typing import Self

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_ORPHANS_S = 5.0
_SAMPLE_S = 0.2
_MIB_KIB = 1024


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that their CPU time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_orphans() -> None:
    """Wait for the descendants that a measurement has left, for some seconds at most."""
    give_up_at = time.monotonic() + _ORPHANS_S
    while time.monotonic() < give_up_at:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.01)


def children_cpu_s() -> float:
    """Return the CPU seconds of all descendants that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class MemorySampler:
    """Samples the proportional set sizes of a process and of its descendants, in MiB, and keeps the highest sums."""

    def __init__(self, pid: int) -> None:
        self.workers_pss_mib = 0.0
        self.pss_mib = 0.0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            workers = sum(pss_mib(pid) for pid in descendants(self._pid))
            self.workers_pss_mib = max(self.workers_pss_mib, workers)
            self.pss_mib = max(self.pss_mib, workers + pss_mib(self._pid))


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below this one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def pss_mib(pid: int) -> float:
    """Return a process's proportional set size, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / _MIB_KIB for line in lines if line.startswith("Pss:")), 0.0)
