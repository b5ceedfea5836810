"""What a machine is: the facts that figures depend on, and who else uses it meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from gpuexec._version import __version__
from gpuexec.hardware.inventory import read_node
from gpuexec.hardware.model import Node

_DISTURBED = 0.1  # of the usable CPUs, taken by other processes
_LEAST_S = 0.5  # of a measurement, for such a share to mean something


def machine_facts(node: Node, root: Path = Path("/")) -> dict[str, Any]:
    """Return the facts about this machine, as plain values. What cannot be read is ``None``.

    ``root`` is where ``/proc`` and ``/sys`` are (another folder in tests).
    """
    info = _cpuinfo(root)
    system = os.uname()
    return {
        "hostname": node.host.hostname,
        "cpu": info.get("model name") or info.get("Hardware") or system.machine,
        "is_virtual": "hypervisor" in info.get("flags", "").split() if "flags" in info else None,
        "usable_cpus": node.host.usable_cpus,
        "memory_bytes": node.host.memory_total_bytes,
        "kernel": system.release,
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": sys.version.split()[0],
        "gpuexec": __version__,
        "driver": node.driver_version,
        "gpus": [{"index": gpu.index, "name": gpu.name, "uuid": gpu.uuid} for gpu in node.gpus],
        "no_gpus_reason": node.no_gpus_reason,
    }


def this_machine() -> tuple[Node, dict[str, Any]]:
    """Return this machine, and the facts about it."""
    node = read_node()
    return node, machine_facts(node)


def key_of(machine: Mapping[str, Any]) -> str:
    """Return by which name the results of a machine are kept. It is its GPUs that make it out, else its host name."""
    gpus = sorted(str(gpu.get("uuid")) for gpu in machine.get("gpus") or ())
    text = "\n".join([str(machine.get("cpu")), *(gpus or [str(machine.get("hostname"))])])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def conditions(machine: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the facts that a figure depends on."""
    return {name: machine.get(name) for name in names}


class Disturbance:
    """Sees how much CPU time other processes take while something is measured."""

    def __init__(self, usable_cpus: float) -> None:
        self._usable = usable_cpus
        self._began = time.monotonic(), _others_cpu_s()

    def doubts(self) -> tuple[str, ...]:
        """Return a sentence if others took much of the CPUs since this was made."""
        (began, before), others = self._began, _others_cpu_s()
        seconds = time.monotonic() - began
        if before is None or others is None or seconds < _LEAST_S:
            return ()
        taken = max(0.0, others - before) / seconds
        if taken < _DISTURBED * self._usable:
            return ()
        return (f"other processes took {taken:.1f} of {self._usable:g} CPUs meanwhile",)


def _others_cpu_s() -> float | None:
    """Return the CPU seconds that all other processes of the machine have used so far, ``None`` if unknown."""
    try:
        times = psutil.cpu_times()
        busy = times.user + times.nice + times.system + times.irq + times.softirq + getattr(times, "steal", 0.0)
        own = psutil.Process()
        return float(busy - sum(cpu_s(process) for process in (own, *own.children(recursive=True))))
    except (OSError, psutil.Error):
        return None


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, and of its children that have ended."""
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the fields of the first CPU."""
    return dict(_fields(root / "proc/cpuinfo"))


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    for line in (_text(path) or "").splitlines():
        if not line.strip():
            return
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
