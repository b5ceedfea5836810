"""How close this process's cgroup, or the machine, is to running out of memory. Read about once a second in a run.

What counts is the working set: memory that cannot be given back. Page cache does not count as used (ray#35989),
so a stage that reads many files does not look like one that leaks. Shared-memory segments do count.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gpuexec.hardware.host import cgroup_folders, meminfo, memory_limit
from gpuexec.records import Record
from gpuexec.units import GIB


class HostMemory(Record):
    """A memory limit and how much of it is used, in bytes. Where unreadable, both are ``None`` and ``reason`` says why.

    ``source``: the cgroup's folder, or "the machine".
    """

    limit_bytes: int | None
    working_set_bytes: int | None
    source: str
    reason: str | None = None

    @property
    def fraction(self) -> float | None:
        """The fraction of the limit that is used."""
        if self.limit_bytes is None or self.working_set_bytes is None:
            return None
        return self.working_set_bytes / self.limit_bytes if self.limit_bytes else 1.0


def read_memory(root: Path = Path("/")) -> HostMemory:
    """Return the limit that is closest to being reached: that of our cgroup, of an ancestor of it, or of the machine.

    The machine counts even where a cgroup has a limit, since other processes may use up its memory. ``root`` is
    where ``/proc`` and ``/sys`` are (another folder in tests). Takes about 1 ms, too long to be called for every task.
    """
    readings = [*_of_cgroups(root), *_of_machine(root)]
    if not readings:
        reason = "neither a cgroup's memory limit nor MemTotal and MemAvailable of /proc/meminfo can be read"
        return HostMemory(None, None, "none", reason)
    return max(readings, key=lambda memory: memory.fraction or 0.0)


def pressure(memory: HostMemory, high_water: float, low_water: float, was_held: bool) -> tuple[bool, str]:
    """Return whether to hold back new work, and the reason. Pure.

    ``high_water`` and ``low_water`` are fractions of the limit, 0 < low <= high. Work is held back from the high
    one on, until use has fallen to the low one; the gap keeps the decision from switching back and forth. An
    unknown reading holds nothing back.
    """
    fraction = memory.fraction
    if fraction is None or memory.working_set_bytes is None or memory.limit_bytes is None:
        return False, f"memory use is unknown: {memory.reason or 'no reading'}"
    use = (
        f"{memory.working_set_bytes / GIB:.1f} of {memory.limit_bytes / GIB:.1f} GiB ({fraction:.0%}) "
        f"of {memory.source} are in use"
    )
    if fraction >= high_water:
        return True, f"{use}, the limit for new work is {high_water:.0%}"
    if was_held and fraction > low_water:
        return True, f"{use}, new work waits until it is {low_water:.0%}"
    return False, use


def process_rss(pid: int) -> int | None:
    """Return the resident memory of a process in bytes, shared pages included; ``None`` if the process is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_cgroups(root: Path) -> Iterator[HostMemory]:
    for folder in cgroup_folders(root):
        for limit, used in memory_limit(folder):
            # The two files are not read at the same moment, so the difference may be negative.
            yield HostMemory(limit, max(0, used), f"cgroup /{folder.relative_to(root)}")


def _of_machine(root: Path) -> Iterator[HostMemory]:
    total, available = meminfo(root, "MemTotal"), meminfo(root, "MemAvailable")
    if total is not None and available is not None:
        yield HostMemory(total, max(0, total - available), "the machine")
