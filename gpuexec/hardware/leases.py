"""Leases: which shares of this machine's GPUs runs hold, so that two of them do not choose the same GPU.

A GPU shows no memory in use until a run's models are loaded, which takes minutes. So every run writes down what it was
granted *while* it plans, under a lock that all runs with the same folder take. One lease is one file of the folder.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuexec.hardware.lease_folder import HeldFile, LeaseFolder
from gpuexec.hardware.model import Device, GpuProcess, Holder, Lease, LeaseAmount, Node

_SUFFIX = ".lease"
_WHOLE = 1000  # thousandths


def read_leases(folder: LeaseFolder, uuids: Iterable[str]) -> dict[str, tuple[Lease, ...]]:
    """Return the leases of other runs on these devices. Call it while the folder is locked.

    The lease of a process that this one descends from is left out: a run inside a stage works within its share.
    """
    wanted = {_file_part(uuid): uuid for uuid in uuids}
    ancestors = set(ancestors_of(os.getpid()))
    found: dict[str, list[Lease]] = {}
    for path in folder.held(_SUFFIX):
        uuid = wanted.get(path.name.partition(".")[0])  # a folder on NFS has other machines' leases too
        fields = folder.fields_of(path) if uuid is not None else None
        if uuid is not None and fields is not None:
            lease = _lease(fields)
            if lease.holder.elsewhere or lease.holder.pid not in ancestors:
                found.setdefault(uuid, []).append(lease)
    return {uuid: tuple(leases) for uuid, leases in found.items()}


class HeldLeases:
    """The leases of one run of this process, until they are closed, dropped, or the process ends.

    ``folder``: ``None`` for a run that takes none. ``pipeline``: its name, for others to read.
    """

    def __init__(self, folder: LeaseFolder | None = None, pipeline: str | None = None) -> None:
        self._folder = folder
        self._pipeline = pipeline
        self._files: dict[str, HeldFile] = {}
        self._amounts: dict[str, LeaseAmount] = {}
        self._release = weakref.finalize(self, _release_all, self._files, os.getpid())

    @classmethod
    def take(cls, folder: LeaseFolder, amounts: Mapping[str, LeaseAmount], pipeline: str | None = None) -> HeldLeases:
        """Take leases, by UUID of the device. Call it while the folder is locked. Raises ``OSError``."""
        leases = cls(folder, pipeline)
        try:
            for uuid, amount in amounts.items():
                leases._add(uuid, amount)
        except BaseException:
            leases.close()
            raise
        return leases

    def cover(self, amounts: Mapping[str, LeaseAmount]) -> None:
        """Enlarge the leases to this, where a run's workers have moved to other devices."""
        if self._folder is None:
            return
        missing = {uuid: a for uuid, a in amounts.items() if not self._amounts.get(uuid, LeaseAmount()).covers(a)}
        if missing:
            with contextlib.suppress(OSError), self._folder.locked():
                for uuid, amount in missing.items():
                    self._add(uuid, amount.joined(self._amounts.get(uuid, LeaseAmount())))

    def close(self) -> None:
        """Give all of them back."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, uuid: str, amount: LeaseAmount) -> None:
        """Hold this much of a device, in place of what is held of it."""
        assert self._folder is not None
        if uuid not in self._files:
            self._files[uuid] = self._folder.new_file(_file_part(uuid), _SUFFIX)
        fields = {"thousandths": amount.thousandths, "memory_bytes": amount.memory_bytes, "pipeline": self._pipeline}
        self._files[uuid].write(fields)
        self._amounts[uuid] = amount


def with_leases(devices: Sequence[Device], leases: Mapping[str, tuple[Lease, ...]]) -> tuple[Device, ...]:
    """Return the devices with other runs' leases, and with those runs' processes marked as theirs."""
    return tuple(_with_leases(device, leases[device.uuid]) if device.uuid in leases else device for device in devices)


def node_with_leases(node: Node, folder: LeaseFolder) -> Node:
    """Return the node with what runs hold of its GPUs and MIG slices. Raises ``OSError``."""
    uuids = [uuid for gpu in node.gpus for uuid in (gpu.uuid, *(mig.uuid for mig in gpu.mig_slices)) if uuid]
    with folder.locked():
        leases = read_leases(folder, uuids)
    return replace(
        node,
        gpus=tuple(
            replace(
                gpu,
                leases=leases.get(gpu.uuid or "", ()),
                mig_slices=tuple(replace(mig, leases=leases.get(mig.uuid, ())) for mig in gpu.mig_slices),
            )
            for gpu in node.gpus
        ),
    )


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
    drivers = {lease.holder.pid for lease in leases if not lease.holder.elsewhere}

    def marked(process: GpuProcess) -> GpuProcess:
        of_run = process.pid in drivers or not drivers.isdisjoint(ancestors_of(process.pid))
        return replace(process, holds_lease=True) if of_run else process

    processes = None if device.processes is None else tuple(marked(process) for process in device.processes)
    return replace(device, leases=leases, processes=processes)


def _lease(fields: Mapping[str, Any]) -> Lease:
    """Return the lease that a file stands for: all of the device, if another version has written it otherwise."""
    try:
        amounts = int(fields["thousandths"]), int(fields["memory_bytes"])
    except (ValueError, KeyError, TypeError):
        amounts = _WHOLE, 0
    return Lease(Holder.of(fields), *amounts)


def _release_all(files: dict[str, HeldFile], pid: int) -> None:
    if os.getpid() == pid:
        for file in files.values():
            file.close()
        files.clear()


def _file_part(uuid: str) -> str:
    return uuid.replace("/", "_").replace(".", "_")
