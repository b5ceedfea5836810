"""How fast the host's memory is, and the disk under a folder."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuexec.bench.builtin.machine import conditions
from gpuexec.bench.builtin.model import Figure
from gpuexec.bench.builtin.runs import executor, pieces
from gpuexec.bench.builtin.stages import Copier, CopyMemory
from gpuexec.errors import ResourcesError
from gpuexec.report.figures import HIGHER, LOWER
from gpuexec.units import KIB, MIB, format_bytes

_COPY_BYTES = 128 * MIB  # each of two buffers: more than the caches of most CPUs
_LEAST_COPY_BYTES = 8 * MIB
_OF_MEMORY = 1 / 8  # of what is available, that buffers may take
_COPY_S = 0.25
_MOST_COPIERS = 64
_READY_S = 0.1  # for all workers to have got their task
_ROUND_S = 0.02  # between rounds of empty tasks, until every worker has had one
_PATIENCE_S = 20.0
_PIECE = MIB
_SYNCS = 9  # of each repeat, of which the middle one counts


def memory_figures(machine: Mapping[str, Any], available_bytes: int | None, repeats: int) -> Iterator[Figure]:
    """Measure how fast memory is copied: by one CPU, and by all that may be used."""
    cpus = max(1, min(_MOST_COPIERS, int(machine["usable_cpus"])))
    room = int((available_bytes or 0) * _OF_MEMORY / (2 * cpus))
    size = min(_COPY_BYTES, room) // MIB * MIB
    depends_on = {**conditions(machine, "cpu", "usable_cpus"), "buffer_bytes": size}
    one = ("memory.copy", "memory copied by one CPU", "GB/s", HIGHER)
    every = ("memory.copy_all", f"memory copied by {cpus} CPUs at once", "GB/s", HIGHER)
    if size < _LEAST_COPY_BYTES:
        reason = f"too little memory is available: {format_bytes(available_bytes or 0)}"
        yield from (Figure(*each, reason=reason) for each in (one, every))
        return
    copier = Copier(size)
    copier.rate(0)
    yield Figure(
        *one, tuple(copier.rate(time.monotonic() + _COPY_S) / 1e9 for _ in range(repeats)), conditions=depends_on
    )
    del copier
    try:
        rates = tuple(_all_cpus(cpus, size) for _ in range(repeats))
    except ResourcesError as error:
        yield Figure(*every, reason=str(error))
        return
    yield Figure(*every, rates, conditions=depends_on)


def _all_cpus(cpus: int, size: int) -> float:
    """Copy in as many workers at once, and return gigabytes a second of all of them together."""
    together = _Together(cpus)
    for task in executor().execute_iter([CopyMemory(cpus, size)], together.tasks()):
        together.came_back(*task.data)
    rates = together.rates
    if len(rates) < cpus:
        raise ResourcesError(f"only {len(rates)} of {cpus} workers could be made to copy at the same time")
    return sum(rates.values()) / 1e9


class _Together:
    """Hands each of several workers a task for the same moment, once all of them are up.

    ``rates``: bytes a second, by the worker's pid.
    """

    def __init__(self, workers: int) -> None:
        self.rates: dict[int, float] = {}
        self._workers = workers
        self._up: set[int] = set()
        self._back = threading.Semaphore(0)

    def tasks(self) -> Iterator[Any]:
        limit = time.monotonic() + _PATIENCE_S
        while len(self._up) < self._workers and time.monotonic() < limit:
            yield from pieces([None] * self._workers)
            for _ in range(self._workers):
                self._back.acquire(timeout=_PATIENCE_S)
            time.sleep(_ROUND_S)  # for those that are still starting
        begin = time.monotonic() + _READY_S
        yield from pieces([(begin, begin + _COPY_S)] * self._workers)

    def came_back(self, pid: int, rate: float | None) -> None:
        if rate is None:
            self._up.add(pid)
            self._back.release()
        else:
            self.rates[pid] = rate


def disk_figures(folder: Path, repeats: int, *, full: bool) -> Iterator[Figure]:
    """Measure the disk under a folder: writing, reading, and how long it takes until a few bytes are safe.

    The file has no name, so nothing is left behind.
    """
    size = (1024 if full else 128) * MIB
    kind, device = filesystem_of(folder)
    depends_on = {"folder": str(folder), "filesystem": kind, "device": device, "kernel": os.uname().release}
    label = f"disk:{folder}"
    named = (
        (f"{label}.write", f"{format_bytes(size)} written and synced", "MB/s", HIGHER),
        (f"{label}.read", "the same, read", "MB/s", HIGHER),
        (f"{label}.sync", "4 KiB appended and synced, as a checkpoint does", "ms", LOWER),
    )
    written, read, synced = [], [], []
    try:
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize < 4 * size:
            raise OSError(f"only {format_bytes(free.f_bavail * free.f_frsize)} are free in it")  # noqa: TRY301
        for _ in range(repeats):
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                written.append(_written(file.fileno(), size))
                read.append(_read(file.fileno(), size))
                synced.append(statistics.median(_synced(file.fileno()) for _ in range(_SYNCS)))
    except OSError as error:
        yield from (Figure(*each, reason=f"{error.strerror or error}") for each in named)
        return
    doubts = () if kind not in ("tmpfs", "ramfs") else (f"{folder} is in memory ({kind}), and no disk",)
    for each, values in zip(named, (written, read, synced), strict=True):
        yield Figure(*each, tuple(values), conditions=depends_on, doubts=doubts)


def filesystem_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> tuple[str | None, str | None]:
    """Return type and device of the file system that a folder is on; ``None`` if they cannot be found out."""
    found: tuple[int, str, str] | None = None
    with contextlib.suppress(OSError, ValueError):
        where = folder.resolve()
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            point = Path(before.split()[4].encode().decode("unicode_escape"))
            if where.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
                found = (len(point.parts), *after.split()[:2])  # type: ignore[assignment]
    return (None, None) if found is None else found[1:]


def _written(fd: int, size: int) -> float:
    piece = os.urandom(_PIECE)  # what compresses well would flatter a file system that compresses
    os.lseek(fd, 0, os.SEEK_SET)
    began = time.monotonic()
    for _ in range(size // _PIECE):
        os.write(fd, piece)
    os.fsync(fd)
    return size / (time.monotonic() - began) / 1e6


def _read(fd: int, size: int) -> float:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # or it would come from memory
    os.lseek(fd, 0, os.SEEK_SET)
    began = time.monotonic()
    while os.read(fd, _PIECE):
        pass
    return size / (time.monotonic() - began) / 1e6


def _synced(fd: int) -> float:
    os.lseek(fd, 0, os.SEEK_END)
    began = time.monotonic()
    os.write(fd, bytes(4 * KIB))
    os.fdatasync(fd)
    return (time.monotonic() - began) * 1e3
