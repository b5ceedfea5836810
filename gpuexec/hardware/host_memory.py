"""How close this process's cgroup, or the machine, is to running out of memory, read again and again.

What counts is the working set: memory that cannot be given back. Page cache is not use (ray#35989), so a
stage that reads many files does not look like one that leaks; shared-memory segments are use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuexec.hardware.host import cgroup_folders, meminfo, memory_limit

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class HostMemory:
    """A memory limit and what is used of it, in bytes; ``None`` for both with the ``reason`` if unreadable.

    ``source``: the cgroup's folder, or "the machine".
    """

    limit_bytes: int | None
    working_set_bytes: int | None
    source: str
    reason: str | None = None

    @property
    def fraction(self) -> float | None:
        """Share of the limit that is used."""
        if self.limit_bytes is None or self.working_set_bytes is None:
            return None
        return self.working_set_bytes / self.limit_bytes if self.limit_bytes else 1.0


def read_memory(root: Path = Path("/")) -> HostMemory:
    """Return the limit that is closest to being reached: of our cgroup, an ancestor of it, or the machine.

    The machine counts too where a cgroup has a limit: its memory may be used up by others. ``root`` is where
    ``/proc`` and ``/sys`` are (another folder in tests). Takes about 1 ms: for once a second, not for every task.
    """
    found = [*_of_cgroups(root), *_of_machine(root)]
    if not found:
        why = "neither a cgroup's memory limit nor MemTotal and MemAvailable of /proc/meminfo can be read"
        return HostMemory(None, None, "none", why)
    return max(found, key=lambda memory: memory.fraction or 0.0)


def pressure(memory: HostMemory, high_water: float, low_water: float, was_held: bool) -> tuple[bool, str]:
    """Decide whether new work should be held back, and say why. Pure.

    ``high_water`` and ``low_water`` are shares of the limit, 0 < low <= high: work is held from the high one on
    and until the low one is reached again, so that it does not flutter. An unknown reading holds nothing back.
    """
    fraction = memory.fraction
    if fraction is None or memory.working_set_bytes is None or memory.limit_bytes is None:
        return False, f"memory use is unknown: {memory.reason or 'no reading'}"
    use = (
        f"{memory.working_set_bytes / _GIB:.1f} of {memory.limit_bytes / _GIB:.1f} GiB ({fraction:.0%}) "
        f"of {memory.source} are in use"
    )
    if fraction >= high_water:
        return True, f"{use}, the limit for new work is {high_water:.0%}"
    if was_held and fraction > low_water:
        return True, f"{use}, new work waits until it is {low_water:.0%}"
    return False, use


def process_rss(pid: int) -> int | None:
    """Return the resident memory of a process in bytes, shared pages included; ``None`` if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def tree_rss(pid: int) -> int | None:
    """Return the resident memory of a process and all its descendants in bytes; ``None`` if it is gone.

    An upper bound: pages that several of them share count once for each. Where the kernel does not list
    children (CONFIG_PROC_CHILDREN), that of the process alone.
    """
    own = process_rss(pid)
    if own is None:
        return None
    return own + sum(tree_rss(child) or 0 for child in _children(pid))


def _children(pid: int) -> Iterator[int]:
    """Children are listed by the thread that started them."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (thread / "children").read_text().split())


def _of_cgroups(root: Path) -> Iterator[HostMemory]:
    for folder in cgroup_folders(root):
        for limit, used in memory_limit(folder):
            # The two files are not read at one moment: the difference may be below zero.
            yield HostMemory(limit, max(0, used), f"cgroup /{folder.relative_to(root)}")


def _of_machine(root: Path) -> Iterator[HostMemory]:
    total, available = meminfo(root, "MemTotal"), meminfo(root, "MemAvailable")
    if total is not None and available is not None:
        yield HostMemory(total, max(0, total - available), "the machine")
