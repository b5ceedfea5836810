"""Finds and kills the processes of a run, from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

MARK = "GPUEXEC_RELIABILITY_MARK"  # in the environment of a driver, and so of all processes it starts


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield all living processes of a run, its driver included, whatever their parents are now."""
    for process in psutil.process_iter():
        try:
            matches = process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if matches:
            yield process


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """Return a driver's workers: children that run ``python -m gpuexec.worker``, and those of its templates."""
    workers = []
    for child in driver.children():
        try:
            command = child.cmdline()
            if "template" in command:  # its workers have the same command line
                workers += child.children()
            elif "gpuexec.worker" in command:
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return workers


def kill(process: psutil.Process) -> bool:
    """Send SIGKILL; return whether the process still existed."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def seconds_until_gone(mark: str, limit_s: float) -> float | None:
    """Wait for the processes of a run whose driver is dead; return the time, ``None`` if it exceeds the limit."""
    started_at = time.monotonic()
    while True:
        left = list(marked(mark))
        waited = time.monotonic() - started_at
        if not left:
            return waited
        if waited > limit_s:
            return None
        psutil.wait_procs(left, timeout=0.05)
