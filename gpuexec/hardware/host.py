"""CPUs and memory that this process may use, which its affinity mask and cgroups limit to less than the machine has."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from gpuexec.hardware.model import Host
from gpuexec.units import KIB

_CGROUP_ROOT = Path("sys/fs/cgroup")
_V1_UNLIMITED = 1 << 60  # v1 writes about 2**63 where there is no limit
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h


def read_host(root: Path = Path("/")) -> Host:
    """Read the host. ``root`` is where ``/proc`` and ``/sys`` are (another folder in tests)."""
    groups = list(cgroup_folders(root))
    total = meminfo(root, "MemTotal")
    available = meminfo(root, "MemAvailable")
    limits = [(limit, used) for folder in groups for limit, used in memory_limit(folder)]
    for limit, used in limits:
        total = min(total or limit, limit)
        available = min(available if available is not None else limit, max(0, limit - used))
    return Host(
        hostname=socket.gethostname(),
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        cpu_quota=min((quota for folder in groups for quota in _cpu_quota(folder)), default=None),
        memory_total_bytes=total,
        memory_available_bytes=available,
    )


def name_of_user(uid: int) -> str | None:
    """Return the name of a user; ``None`` if it has none here, as one of another container."""
    import pwd  # hardly a run needs it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def in_initial_pid_namespace(root: Path = Path("/")) -> bool:
    """Return whether our pids are those of the whole machine, which NVML reports. In containers they differ."""
    with contextlib.suppress(OSError):
        return str((root / "proc/self/ns/pid").readlink()) == f"pid:[{_INITIAL_PID_NAMESPACE}]"
    return False


def cgroup_folders(root: Path = Path("/")) -> Iterator[Path]:
    """Yield the folders of our cgroup and of its ancestors, in every hierarchy. The tightest of their limits holds."""
    base = root / _CGROUP_ROOT
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    seen = set()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mounts = [base] if not controllers else [base / controllers, *(base / c for c in controllers.split(","))]
        for mount in mounts:
            # In a container the path is often the host's and does not exist; then the mount itself is our cgroup.
            own = mount / path.strip().lstrip("/")
            for folder in (own, *own.parents):
                if folder not in seen and folder.is_relative_to(mount):
                    seen.add(folder)
                    yield folder


def read_oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes of our cgroup the out-of-memory killer has killed; ``None`` if that is not counted.

    The count stands in ``memory.events`` (cgroup v2) or ``memory.oom_control`` (v1).
    """
    for folder in cgroup_folders(root):
        for counter in (folder / "memory.events", folder / "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                for line in counter.read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
    return None


def memory_limit(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield a cgroup's limit and working set in bytes; nothing where there is no limit.

    Page cache that the kernel can drop does not count as used (ray#35989).
    """
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / limit_file).read_text())  # "max" is a ValueError: no limit
            if limit < _V1_UNLIMITED:
                yield limit, int((folder / used_file).read_text()) - _inactive_file(folder)


def meminfo(root: Path, key: str) -> int | None:
    """Return a field of ``/proc/meminfo`` in bytes; ``None`` if it is not there."""
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * KIB
    return None


def _cpu_quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # v2: "max 100000" or "150000 100000"
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _inactive_file(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key in {"total_inactive_file", "inactive_file"}:
                return int(value)
    return 0
