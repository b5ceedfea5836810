"""CUDA_VISIBLE_DEVICES as CUDA reads it. Pure.

The rules are those of the CUDA C++ Programming Guide, "CUDA Environment Variables", and where the guide is silent,
what the runtime does (distributed#8419, pytorch#92315):

* unset: every device; empty: none.
* Entries are separated by commas: indices, ``GPU-`` UUIDs, ``MIG-`` UUIDs, or unique prefixes of UUIDs.
* The list ends at the first entry that is invalid, negative, ambiguous or of another kind than the first.
* A device named twice: no device at all.
* Indices follow CUDA_DEVICE_ORDER. Its default order, FASTEST_FIRST, cannot be read from NVML, so PCI order is
  assumed, and a note says so.
* A GPU in MIG mode, named by index or by its own UUID, stands for its first slice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gpuexec.hardware.model import Device, Gpu
from gpuexec.policies import GpuPinning
from gpuexec.records import Record

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"

_NUMBER = re.compile(r"\s*[+-]?\d+")  # as strtol reads it: anything after the digits is ignored
_LEGACY_MIG = re.compile(r"MIG-(GPU-[^/]+)/(\d+)/(\d+)")


class VisibleDevices(Record):
    """Devices in CUDA's order, and notes for the user on how they were selected."""

    devices: tuple[Device, ...]
    notes: tuple[str, ...] = ()


def select(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> VisibleDevices:
    """Return the devices that CUDA sees in an environment. ``gpus``: the node's GPUs in PCI order."""
    notes = [f"GPU {gpu.index} is lost and cannot be used" for gpu in gpus if gpu.lost]
    value = environ.get(VARIABLE)
    if value is None:
        notes += [f"GPU {gpu.index} cannot be used: {_unreadable(gpu)}" for gpu in gpus if _is_unreadable(gpu)]
        return VisibleDevices(tuple(d for gpu in gpus for d in devices_of(gpu)), tuple(notes))
    selection = _Selection(gpus)
    for entry in value.split(",") if value.strip() else []:
        problem = selection.add(entry)
        if problem:
            notes.append(f"{VARIABLE}={value!r} ends at {entry!r}: {problem}")
            break
    if selection.duplicate:
        notes.append(f"{VARIABLE}={value!r} names {selection.duplicate} twice: CUDA then sees no device")
        return VisibleDevices((), tuple(notes))
    if selection.kind == "index" and len(gpus) > 1 and environ.get(ORDER_VARIABLE) != "PCI_BUS_ID":
        notes.append(
            f"{VARIABLE}={value!r} counts in CUDA's order FASTEST_FIRST, which NVML does not know; "
            f"PCI order is assumed (set {ORDER_VARIABLE}=PCI_BUS_ID, or give UUIDs, to be sure)"
        )
    return VisibleDevices(tuple(selection.devices), tuple(notes))


def numbers_in(environ: Mapping[str, str]) -> set[int]:
    """Return the indices in CUDA_VISIBLE_DEVICES, nothing if it names UUIDs."""
    return {int(entry) for entry in environ.get(VARIABLE, "").split(",") if _NUMBER.fullmatch(entry)}


def devices_of(gpu: Gpu) -> list[Device]:
    """Return what CUDA can select of one GPU: its slices in MIG mode, else the GPU itself; nothing if it is lost."""
    if gpu.lost or gpu.uuid is None:
        return []
    if gpu.mig_enabled:
        return [_slice_device(gpu, number) for number in range(len(gpu.mig_slices))]
    return [
        Device(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name or "GPU",
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=gpu.memory_free_bytes,
            compute_mode=gpu.compute_mode,
            numa_node=gpu.numa_node,
            cpus=gpu.cpu_affinity or (),
            unified_memory=gpu.unified_memory,
            memory_reserved_bytes=gpu.memory_reserved_bytes,
            processes=gpu.processes,
        )
    ]


def visible_value(devices: Sequence[Device], pinning: GpuPinning) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES, with CUDA_DEVICE_ORDER=PCI_BUS_ID, that shows these devices.

    Numbers cannot name MIG slices, and numbers and UUIDs cannot be mixed: with a slice among them, all are UUIDs.
    """
    if pinning is GpuPinning.INDEX and not any(device.is_mig for device in devices):
        return ",".join(str(device.index) for device in devices)
    return ",".join(device.uuid for device in devices)


def _slice_device(gpu: Gpu, number: int) -> Device:
    mig = gpu.mig_slices[number]
    return Device(
        index=gpu.index,
        uuid=mig.uuid,
        name=f"{gpu.name or 'GPU'} MIG {mig.profile or mig.index}",
        memory_total_bytes=mig.memory_total_bytes,
        memory_free_bytes=mig.memory_free_bytes,
        compute_mode=gpu.compute_mode,
        numa_node=gpu.numa_node,
        cpus=gpu.cpu_affinity or (),
        is_mig=True,
        memory_reserved_bytes=mig.memory_reserved_bytes,
        processes=mig.processes,
    )


class _Selection:
    """The devices selected so far; ``add`` reads the next entry of the list."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = gpus
        self.devices: list[Device] = []
        self.kind: str | None = None
        self.duplicate: str | None = None

    def add(self, entry: str) -> str | None:
        """Select the device that an entry names. Return why the list ends there, or ``None``."""
        kind = _kind(entry)
        if kind is None:
            return "it is neither an index nor a UUID"
        if self.kind not in (None, kind):
            return f"indices, GPU and MIG UUIDs cannot be mixed (the list began with {self.kind})"
        self.kind = kind
        look_up = {"index": self._by_index, "GPU UUID": self._by_gpu_uuid, "MIG UUID": self._by_mig_uuid}[kind]
        device = look_up(entry)
        if isinstance(device, str):
            return device
        if any(device.uuid == other.uuid for other in self.devices):
            self.duplicate = device.uuid
        self.devices.append(device)
        return None

    def _by_index(self, entry: str) -> Device | str:
        match = _NUMBER.match(entry)
        index = int(match[0]) if match else -1
        if index < 0:
            return "a negative index ends the list"
        if index >= len(self._gpus):
            return f"there is no GPU {index} (the node has {len(self._gpus)})"
        return self._first_of(self._gpus[index])

    def _by_gpu_uuid(self, entry: str) -> Device | str:
        matches = [gpu for gpu in self._gpus if gpu.uuid and gpu.uuid.startswith(entry.strip())]
        if len(matches) != 1:
            return "several GPUs' UUIDs begin with it" if matches else f"no GPU has this UUID{self._unread()}"
        return self._first_of(matches[0])

    def _by_mig_uuid(self, entry: str) -> Device | str:
        legacy = _LEGACY_MIG.fullmatch(entry.strip())
        matches = [
            device
            for gpu in self._gpus
            for device, mig in zip(devices_of(gpu), gpu.mig_slices, strict=False)
            if (
                (gpu.uuid, str(mig.gpu_instance_id), str(mig.compute_instance_id)) == legacy.groups()
                if legacy
                else mig.uuid.startswith(entry.strip())
            )
        ]
        if len(matches) != 1:
            return (
                "several MIG slices' UUIDs begin with it" if matches else f"no MIG slice has this UUID{self._unread()}"
            )
        return matches[0]

    def _unread(self) -> str:
        return "".join(
            f"; GPU {gpu.index} cannot be used: {_unreadable(gpu)}" for gpu in self._gpus if _is_unreadable(gpu)
        )

    @staticmethod
    def _first_of(gpu: Gpu) -> Device | str:
        devices = devices_of(gpu)
        if devices:
            return devices[0]
        if gpu.lost:
            return f"GPU {gpu.index} is lost"
        if _is_unreadable(gpu):
            return f"GPU {gpu.index} cannot be used: {_unreadable(gpu)}"
        return f"GPU {gpu.index} is in MIG mode without a slice"


def _is_unreadable(gpu: Gpu) -> bool:
    return gpu.uuid is None and not gpu.lost


def _unreadable(gpu: Gpu) -> str:
    """Return why a GPU has no UUID."""
    return gpu.unknown.get("handle") or gpu.unknown.get("uuid") or "its UUID is not known"


def _kind(entry: str) -> str | None:
    entry = entry.strip()
    if _NUMBER.match(entry):
        return "index"
    if entry.startswith("GPU-"):
        return "GPU UUID"
    return "MIG UUID" if entry.startswith("MIG-") else None
