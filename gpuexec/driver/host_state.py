"""Reads how busy the machine is, before and after a run: the kernel's own figures, in some 50 µs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gpuexec.hardware.host import meminfo
from gpuexec.run_facts import HostState


def read_host_state(root: Path = Path("/")) -> HostState:
    """Return the state of the machine. ``root`` is where ``/proc`` is (another folder in tests)."""
    load = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        load = float((root / "proc/loadavg").read_text().split()[0])
    return HostState(load, meminfo(root, "MemAvailable"))
