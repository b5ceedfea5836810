"""Memory and CPU time of processes of this machine, read from ``/proc`` as cheaply as it can be done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from gpuexec.records import Record

SOURCE = "/proc/PID/stat"
ENDED = "the process has ended"

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ENOUGH = 1024  # bytes: the file is one line of about 300


class ProcessSample(Record):
    """One process at one moment. ``None``: not readable; ``unknown`` has the reason under the field's name.

    ``worker_id``: the worker's, or "driver". ``rss_bytes``: resident memory, shared pages included. ``cpu_s``: CPU
    seconds since it started, of all its threads. Processes that it has started are not included. ``gpu_memory_bytes``:
    what it holds of each GPU (UUID and bytes) that it is listed on.
    """

    worker_id: str
    pid: int
    rss_bytes: int | None
    cpu_s: float | None
    gpu_memory_bytes: tuple[tuple[str, int], ...] | None
    unknown: Mapping[str, str]


def read_process(pid: int) -> tuple[int, float] | str:
    """Return resident memory in bytes and CPU time in seconds (in steps of 10 ms), or why they are unknown."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ENDED
    except OSError as error:
        return f"/proc cannot be read: {error.strerror}"
    try:
        line = os.read(descriptor, _ENOUGH)
    except OSError:  # it ended just now
        return ENDED
    finally:
        os.close(descriptor)
    return _parsed(line)


def _parsed(line: bytes) -> tuple[int, float] | str:
    fields = line[line.rfind(b")") + 2 :].split()  # the name before it may hold spaces and brackets
    with contextlib.suppress(ValueError, IndexError):
        if fields[0] in {b"Z", b"X"}:
            return ENDED
        return int(fields[21]) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return "/proc/PID/stat does not have the expected fields"
