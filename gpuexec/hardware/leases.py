"""Leases: which shares of this machine's GPUs the runs of one user hold, so that two runs do not choose the same GPU.

A GPU shows no memory in use until a run's models are loaded, which takes minutes. So every run writes down what it was
granted *while* it plans, under a lock that all runs of this user take.

One lease is one file: its name has the device, its text the amount and the driver's pid. The driver holds a lock on it
(flock), which the kernel takes back however the process ends. A file that nobody has locked is therefore no lease, and
whoever finds it removes it.

Not promised: other users' runs, and containers that do not share the folder, see no leases. They see memory in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from gpuexec.hardware.model import Device, GpuProcess, Lease, LeaseAmount
from gpuexec.private_folder import state_folder

_PATIENCE_S = 5.0  # a run holds the lock while it plans: milliseconds
_POLL_S = 0.02
_SUFFIX = ".lease"
_numbers = itertools.count()
_own: dict[Path, Lease] = {}  # of this process; over NFS, opening and closing a file would lose its lock


class LeaseFolder:
    """The folder of leases. Raises ``OSError`` where none can be made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls) -> LeaseFolder:
        """Open this user's folder: ``gpuexec/leases`` in the state folder, as for capsules."""
        return cls(state_folder("leases"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from planning during the block. After some seconds go on without: a run may be stopped."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _try_lock(fd) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(fd)

    def read(self, uuids: Iterable[str]) -> dict[str, tuple[Lease, ...]]:
        """Return the leases of other runs on these devices. Call it while `locked`.

        The lease of a process that this one descends from is left out: a run inside a stage works within its share.
        """
        wanted = {_file_part(uuid): uuid for uuid in uuids}
        ancestors = set(ancestors_of(os.getpid()))
        found: dict[str, list[Lease]] = {}
        for path in sorted(self.path.glob(f"*{_SUFFIX}")):
            uuid = wanted.get(path.name.partition(".")[0])  # a folder on NFS has other machines' leases too
            lease = _living_lease(path) if uuid is not None else None
            if uuid is not None and lease is not None and lease.pid not in ancestors:
                found.setdefault(uuid, []).append(lease)
        return {uuid: tuple(leases) for uuid, leases in found.items()}

    def hold(self, amounts: Mapping[str, LeaseAmount]) -> HeldLeases:
        """Take leases, by UUID of the device. Call it while `locked`."""
        held = HeldLeases(self)
        try:
            for uuid, amount in amounts.items():
                held.add(uuid, amount)
        except BaseException:
            held.close()
            raise
        return held


class HeldLeases:
    """The leases of one run of this process, until they are closed, dropped, or the process ends.

    A forked child does not keep them: it closes its descriptors.
    """

    def __init__(self, folder: LeaseFolder | None = None) -> None:
        self._folder = folder
        self._files: dict[str, tuple[Path, int]] = {}
        self._amounts: dict[str, LeaseAmount] = {}
        self._release = weakref.finalize(self, _release_all, self._files, os.getpid())
        _all_held.add(self)

    def add(self, uuid: str, amount: LeaseAmount) -> None:
        """Hold this much of a device, in place of what is held of it."""
        assert self._folder is not None
        path = self._files[uuid][0] if uuid in self._files else self._new_path(uuid)
        lease = Lease(os.getpid(), amount.thousandths, amount.memory_bytes)
        if uuid not in self._files:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._files[uuid] = (path, fd)
            _try_lock(fd)
        fd = self._files[uuid][1]
        text = json.dumps({"pid": lease.pid, "thousandths": lease.thousandths, "memory_bytes": lease.memory_bytes})
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
        self._amounts[uuid] = amount
        _own[path] = lease

    def cover(self, amounts: Mapping[str, LeaseAmount]) -> None:
        """Enlarge the leases to this, where a run's workers have moved to other devices."""
        if self._folder is None:
            return
        missing = {uuid: a for uuid, a in amounts.items() if not self._amounts.get(uuid, LeaseAmount()).covers(a)}
        if missing:
            with contextlib.suppress(OSError), self._folder.locked():
                for uuid, amount in missing.items():
                    self.add(uuid, amount.joined(self._amounts.get(uuid, LeaseAmount())))

    def close(self) -> None:
        """Give all of them back."""
        self._release()

    def disown(self) -> None:
        """Forget them in a forked child: they are its parent's."""
        for _, fd in self._files.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def _new_path(self, uuid: str) -> Path:
        assert self._folder is not None
        return self._folder.path / f"{_file_part(uuid)}.{os.getpid()}-{next(_numbers)}-{time.time_ns():x}{_SUFFIX}"


_all_held: weakref.WeakSet[HeldLeases] = weakref.WeakSet()


def _disown_all() -> None:
    for held in list(_all_held):
        held.disown()
    _own.clear()


os.register_at_fork(after_in_child=_disown_all)


def with_leases(devices: Sequence[Device], leases: Mapping[str, tuple[Lease, ...]]) -> tuple[Device, ...]:
    """Return the devices with other runs' leases, and with those runs' processes marked as theirs."""
    return tuple(_with_leases(device, leases[device.uuid]) if device.uuid in leases else device for device in devices)


def ancestors_of(pid: int) -> Iterator[int]:
    """Yield the parent of a process, its parent, and so on, as far as they can be seen."""
    for _ in range(64):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(stat.rpartition(")")[2].split()[1])
        if pid <= 0:
            return
        yield pid


def _with_leases(device: Device, leases: tuple[Lease, ...]) -> Device:
    drivers = {lease.pid for lease in leases}

    def marked(process: GpuProcess) -> GpuProcess:
        of_run = process.pid in drivers or not drivers.isdisjoint(ancestors_of(process.pid))
        return replace(process, holds_lease=True) if of_run else process

    processes = None if device.processes is None else tuple(marked(process) for process in device.processes)
    return replace(device, leases=leases, processes=processes)


def _living_lease(path: Path) -> Lease | None:
    """Return the lease in a file, ``None`` if its process has ended; then the file is removed."""
    if path in _own:
        return _own[path]
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if _try_lock(fd):
            path.unlink(missing_ok=True)
            return None
        fields = json.loads(os.pread(fd, 4096, 0))
        return Lease(int(fields["pid"]), int(fields["thousandths"]), int(fields["memory_bytes"]))
    except (ValueError, KeyError, TypeError):
        return Lease(0, 1000, 0)  # held, by a version that writes it otherwise
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release_all(files: dict[str, tuple[Path, int]], pid: int) -> None:
    if os.getpid() != pid:
        return
    for path, fd in files.values():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(fd)
        _own.pop(path, None)
    files.clear()


def _file_part(uuid: str) -> str:
    return uuid.replace("/", "_").replace(".", "_")
