"""The XIDs in the kernel log: from the kernel itself where this user may read it, else from a file of the log daemon.

A record of /dev/kmsg is "priority,number,microseconds since the start,flags;text" (Documentation/ABI/testing/dev-kmsg
of the kernel). In a file of the log daemon, only what follows the last start of the machine counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpuexec.doctor.facts import KernelLog, XidEntry

_KERNEL = "dev/kmsg"
_FILES = ("var/log/kern.log", "var/log/syslog", "var/log/messages")
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)[^)]*\): (\d+)(?:, )?(.*)")
_START = "Linux version "  # the first line that a kernel writes
_RECORD_BYTES = 8192  # the longest record
_MOST_BYTES = 64 * 1024 * 1024  # of a file, its end
_MOST_CHARS = 120


def read_kernel_log(root: Path = Path("/"), uptime_s: float | None = None) -> KernelLog:
    """Return the XIDs of the first log that can be read. ``uptime_s``: how long the machine has been up."""
    problems = []
    for name, read in ((_KERNEL, _records), *((file, _lines) for file in _FILES)):
        path = root / name
        try:
            xids = tuple(_xids(read(path), uptime_s))
        except OSError as error:
            if error.errno != errno.ENOENT:
                problems.append(f"/{name}: {error.strerror}")
            continue
        return KernelLog(xids, f"/{name}")
    return KernelLog(reason="; ".join(problems) or "there is no kernel log here")


def _xids(lines: Iterable[str], uptime_s: float | None) -> Iterator[XidEntry]:
    for line in lines:
        match = _XID.search(line)
        if match is None:
            continue
        pci, number, text = match.groups()
        ago = None
        if uptime_s is not None and line.partition(";")[0].count(",") >= 3:
            with contextlib.suppress(ValueError):
                ago = max(0.0, uptime_s - int(line.split(",")[2]) / 1e6)
        yield XidEntry(int(number), pci, ago, text.strip()[:_MOST_CHARS])


def _records(path: Path) -> Iterator[str]:
    """Yield what the kernel has: each read of the device returns one record, and fails when there is no further one."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                chunk = os.read(fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # the record was overwritten meanwhile; the next one can be read
                continue
            if not chunk:
                return
            yield from chunk.decode(errors="replace").splitlines()
    finally:
        os.close(fd)


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if _START in line]
    return lines[starts[-1] :] if starts else lines
