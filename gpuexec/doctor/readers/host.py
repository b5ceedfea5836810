"""CPUs, memory, limits, container: what the kernel says of the host and of this process."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpuexec.doctor.facts import ContainerFacts, CpuFacts, Limit, LimitFacts, MemoryFacts, OfferFacts, Space
from gpuexec.doctor.readers.files import fields_of, number_of, numbers_in_list, text_of, whole
from gpuexec.hardware.host import cgroup_folders, in_initial_pid_namespace, meminfo, read_host, read_oom_kills
from gpuexec.hardware.host_memory import read_memory
from gpuexec.units import KIB

_ROOT = Path("/")
_NODES = "sys/devices/system/node"
_CPUS = "sys/devices/system/cpu"
_CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"


def read_cpus(root: Path = _ROOT) -> CpuFacts:
    """Read CPUs, NUMA nodes, governors and clock source."""
    status = fields_of(root / "proc/self/status")
    memory_nodes = None
    with contextlib.suppress(KeyError, ValueError):
        memory_nodes = numbers_in_list(status["Mems_allowed_list"])
    return CpuFacts(
        host=read_host(root),
        throttled=_throttled(root),
        numa_nodes=dict(sorted(_numa_nodes(root))),
        memory_nodes=memory_nodes,
        governors=tuple(sorted(set(_governors(root)))),
        clock_source=text_of(root / _CLOCK),
    )


def read_memory_facts(root: Path = _ROOT) -> MemoryFacts:
    """Read memory, swap, overcommit and /dev/shm."""
    commit_limit, committed = meminfo(root, "CommitLimit"), meminfo(root, "Committed_AS")
    return MemoryFacts(
        closest=read_memory(root),
        oom_kills=read_oom_kills(root),
        swap_total=meminfo(root, "SwapTotal"),
        swap_free=meminfo(root, "SwapFree"),
        overcommit=number_of(root / "proc/sys/vm/overcommit_memory"),
        commit_limit=commit_limit,
        committed=committed,
        address_space=_limit(resource.RLIMIT_AS).soft,
        shm=_shm(root / "dev/shm"),
    )


def read_limits(root: Path = _ROOT) -> LimitFacts:
    """Read the limits on open files and processes, and how much of them is used."""
    uid = os.getuid()
    files, processes = _limit(resource.RLIMIT_NOFILE), _limit(resource.RLIMIT_NPROC)
    descriptors = None
    with contextlib.suppress(OSError):
        descriptors = sum(1 for _ in (root / "proc/self/fd").iterdir())
    return LimitFacts(
        open_files=Limit(files.soft, files.hard, descriptors),
        processes=Limit(processes.soft, processes.hard, _threads_of(uid, root)),
        pids=_pids(root),
        uid=uid,
    )


def read_container(root: Path = _ROOT, environ: Mapping[str, str] = os.environ) -> ContainerFacts:
    """Find out whether this is a container, from what the runtimes leave in it."""
    kind = None
    if "KUBERNETES_SERVICE_HOST" in environ:
        kind = "Kubernetes"
    elif (root / ".dockerenv").exists():
        kind = "Docker"
    elif (root / "run/.containerenv").exists():
        kind = "Podman"
    elif (root / ".singularity.d").exists():
        kind = "Apptainer"
    else:
        kind = text_of(root / "run/systemd/container") or environ.get("container") or None
    return ContainerFacts(kind, in_initial_pid_namespace(root))


def read_offers() -> OfferFacts:
    """Try whether Python, kernel and sandbox offer memfds and pidfds."""
    system = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    return OfferFacts(
        _try_memfd(),
        _try_pidfd(),
        f"{system.sysname} {system.release}",
        python,
        free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    )


def uptime_s(root: Path = _ROOT) -> float | None:
    """Return for how many seconds the machine has been up."""
    with contextlib.suppress(ValueError, IndexError):
        return float((text_of(root / "proc/uptime") or "").split()[0])
    return None


# ---- CPUs ----------------------------------------------------------------------------------------------------


def _throttled(root: Path) -> tuple[int, int] | None:
    """Return the counts of the nearest cgroup that has a quota (``nr_periods`` is 0 without one)."""
    for folder in cgroup_folders(root):
        counts = fields_of(folder / "cpu.stat", None)
        periods, throttled = whole(counts.get("nr_periods")), whole(counts.get("nr_throttled"))
        if periods and throttled is not None:
            return throttled, periods
    return None


def _numa_nodes(root: Path) -> Iterator[tuple[int, tuple[int, ...]]]:
    for folder in (root / _NODES).glob("node[0-9]*"):
        cpus = text_of(folder / "cpulist")
        with contextlib.suppress(ValueError):
            if cpus is not None:
                yield int(folder.name.removeprefix("node")), numbers_in_list(cpus)


def _governors(root: Path) -> Iterator[tuple[str, str, str]]:
    for folder in (root / _CPUS).glob("cpu[0-9]*/cpufreq"):
        governor = text_of(folder / "scaling_governor")
        if governor:
            driver = text_of(folder / "scaling_driver") or ""
            yield governor, driver, text_of(folder / "energy_performance_preference") or ""


# ---- memory --------------------------------------------------------------------------------------------------


def _shm(path: Path) -> Space | None:
    if not os.access(path, os.W_OK):
        return None
    with contextlib.suppress(OSError):
        found = os.statvfs(path)
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    return None


# ---- limits --------------------------------------------------------------------------------------------------


def _limit(number: int) -> Limit:
    soft, hard = (None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(number))
    return Limit(soft, hard)


def _threads_of(uid: int, root: Path) -> int | None:
    """Return how many threads this user's processes have: the limit on processes counts them."""
    count, seen = 0, False
    with contextlib.suppress(OSError):
        for folder in (root / "proc").iterdir():
            if not folder.name.isdigit():
                continue
            status = fields_of(folder / "status")
            if status.get("Uid", "").split()[:1] == [str(uid)]:
                count += whole(status.get("Threads")) or 1
                seen = True
    return count if seen else None


def _pids(root: Path) -> Limit:
    """Return the cgroup limit on processes that leaves the least room."""
    found = [
        Limit(limit, limit, number_of(folder / "pids.current"))
        for folder in cgroup_folders(root)
        if (limit := number_of(folder / "pids.max")) is not None
    ]
    return min(found, key=lambda limit: (limit.soft or 0) - (limit.used or 0), default=Limit(None))


# ---- what is offered -----------------------------------------------------------------------------------------


def _try_memfd() -> str | None:
    if not hasattr(os, "memfd_create"):
        return "this Python has no os.memfd_create"
    try:
        fd = os.memfd_create("gpuexec-doctor", os.MFD_CLOEXEC)
    except OSError as error:
        return f"memfd_create: {error.strerror}"
    try:
        os.ftruncate(fd, KIB)
    except OSError as error:
        return f"ftruncate of a memfd: {error.strerror}"
    finally:
        os.close(fd)
    return None


def _try_pidfd() -> str | None:
    if not hasattr(os, "pidfd_open"):
        return "this Python has no os.pidfd_open"
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    try:
        select.select([fd], [], [], 0)
    except OSError as error:
        return f"waiting for a pidfd: {error.strerror}"
    finally:
        os.close(fd)
    return None
