"""Finding and killing the processes of a run from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

MARK = "GPUEXEC_RELIABILITY_MARK"  # in a driver's environment, hence in that of whatever it starts


def marked(mark: str) -> Iterator[psutil.Process]:
    """All living processes of the run, its driver included, however they are related now."""
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if ours:
            yield process


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Its workers: what it started as ``python -m gpuexec.worker``."""
    found = []
    for child in driver.children():
        try:
            if "gpuexec.worker" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether there was something to kill."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def seconds_until_gone(mark: str, limit_s: float) -> float | None:
    """How long processes of a run whose driver is dead live on; ``None``: longer than the limit."""
    began = time.monotonic()
    while True:
        left = list(marked(mark))
        waited = time.monotonic() - began
        if not left:
            return waited
        if waited > limit_s:
            return None
        psutil.wait_procs(left, timeout=0.05)
