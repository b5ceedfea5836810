"""Reads GPUs through NVML.

Every reading is a value or a reason. So a GPU that is lost, or does not support a field, never prevents the others
from being listed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware.model import ComputeMode, Gpu, GpuProcess, Link, MigSlice
from gpuexec.hardware.nvml_calls import RUNNING_TIMEOUT_S, Reader, hung_call, session
from gpuexec.hardware.nvml_errors import GPU_IS_LOST, NOT_SUPPORTED
from gpuexec.hardware.topology import PairReading, links_between

_MASK_WORDS = 64  # 64-bit words of a CPU mask: 4096 CPUs
_MAX_LINKS = 36  # NVML_NVLINK_MAX_LINKS


@dataclass(frozen=True, slots=True)
class NvmlListing:
    """Everything that NVML reports about the node. ``hang``: the call that did not return while it was read."""

    gpus: tuple[Gpu, ...]
    links: tuple[Link, ...]
    driver_version: str | None
    cuda_version: str | None
    hang: str | None = None


def list_gpus(first: Collection[int] = ()) -> NvmlListing:
    """List the node's GPUs in NVML's (PCI) order. Raises ``NvmlUnavailable``.

    If a call hangs, everything after it is unknown. So the GPUs ``first`` (indices) are read before the others, and of
    each GPU first what a plan cannot do without.
    """
    with session() as reader:
        nvml = reader.nvml
        count, reason = reader.ask(nvml.nvmlDeviceGetCount)
        if count is None:
            raise NvmlUnavailable(f"the GPUs cannot be counted: {reason}")
        opened = [_Opened(reader, index) for index in range(count)]
        in_order = sorted(opened, key=lambda gpu: (gpu.index not in first, gpu.index))
        for gpu in in_order:
            gpu.read_what_plans_need()
        driver_version = reader.ask(nvml.nvmlSystemGetDriverVersion)[0]
        cuda = cuda_version(reader.ask(nvml.nvmlSystemGetCudaDriverVersion)[0])
        read = {gpu.index: gpu.read_the_rest() for gpu in in_order}
        gpus = tuple(read[gpu.index] for gpu in opened)
        links = _read_links(reader, [gpu.handle for gpu in opened], gpus)
    return NvmlListing(gpus, links, driver_version, cuda, hung_call())


def memory_used(uuids: Sequence[str]) -> dict[str, int]:
    """Return the bytes in use by UUID of the device (GPU or MIG slice). Devices that cannot be read are left out."""
    used = {}
    with contextlib.suppress(NvmlUnavailable), session(RUNNING_TIMEOUT_S) as reader:
        for uuid in uuids:
            handle, _ = reader.ask(reader.nvml.nvmlDeviceGetHandleByUUID, uuid)
            memory, _ = _memory(reader, handle) if handle is not None else (None, "")
            if memory is not None:
                used[uuid] = memory[1]
    return used


class ProcessMemory:
    """What one process and those of its group hold of one device, to be read repeatedly within one ``session``.

    A worker leads a process group, which its stage's own processes belong to, such as an engine of vLLM.
    """

    def __init__(self, reader: Reader, uuid: str, pid: int) -> None:
        self._reader = reader
        self._uuid = uuid
        self._pid = pid
        self._handle: Any = None
        self._open()

    def read(self) -> int | MemoryAbsence:
        """Return the bytes that they hold, or why they are unknown."""
        if self._handle is None and not self._open():
            return MemoryAbsence.NVML_HANGS if hung_call() else MemoryAbsence.DEVICE_NOT_FOUND
        processes, _ = read_processes(self._reader, self._handle, names=False)
        if processes is None:
            return MemoryAbsence.NVML_HANGS if hung_call() else MemoryAbsence.LIST_UNREADABLE
        own = {process.pid: process.used_bytes for process in processes if self._is_own(process.pid)}
        if not own:
            return MemoryAbsence.NOT_LISTED
        return MemoryAbsence.LISTED_WITHOUT_SIZE if None in own.values() else sum(used or 0 for used in own.values())

    def _is_own(self, pid: int) -> bool:
        if pid == self._pid:
            return True
        with contextlib.suppress(OSError):  # it has ended
            return os.getpgid(pid) == self._pid
        return False

    def _open(self) -> bool:
        self._handle, _ = self._reader.ask(self._reader.nvml.nvmlDeviceGetHandleByUUID, self._uuid)
        return self._handle is not None


@dataclass(frozen=True, slots=True)
class OpenGpu:
    """A physical GPU, and which of the requested devices are on it.

    ``devices`` maps a UUID, the GPU's own or that of a MIG slice, to its GPU instance (``None``: the whole GPU).
    """

    index: int
    uuid: str
    handle: Any
    devices: Mapping[str, int | None]


def open_gpus(reader: Reader, uuids: Sequence[str]) -> tuple[tuple[OpenGpu, ...], dict[str, str]]:
    """Find the physical GPUs of devices. Return them and, by UUID, why a device was not found.

    GPUs are opened by index, since opening one by UUID fails with "lost" if any other GPU is lost.
    """
    nvml = reader.nvml
    gpus, unreadable, missing = [], [], list(uuids)
    for index in range(reader.ask(nvml.nvmlDeviceGetCount)[0] or 0):
        handle, reason = reader.ask(nvml.nvmlDeviceGetHandleByIndex, index)
        uuid, reason = reader.ask(nvml.nvmlDeviceGetUUID, handle) if handle is not None else (None, reason)
        if uuid is None:
            unreadable.append(f"GPU {index}: {reason}")
            continue
        instances = {uuid: None, **_instances(reader, handle)}
        devices = {device: instances[device] for device in missing if device in instances}
        missing = [device for device in missing if device not in instances]
        if devices:
            gpus.append(OpenGpu(index, uuid, handle, devices))
    reason = "; ".join(["no GPU that answers has this UUID", *unreadable])
    return tuple(gpus), dict.fromkeys(missing, reason)


def _instances(reader: Reader, handle: Any) -> dict[str, int | None]:
    """Return the GPU instance of each of a GPU's MIG slices, by UUID."""
    nvml = reader.nvml
    instances = {}
    for number in range(reader.ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)[0] or 0):
        mig, _ = reader.ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        uuid = reader.ask(nvml.nvmlDeviceGetUUID, mig)[0] if mig is not None else None
        if uuid is not None:
            instances[uuid] = reader.ask(nvml.nvmlDeviceGetGpuInstanceId, mig)[0]
    return instances


@dataclass(slots=True)
class _Opened:
    """A GPU that is being read. ``readings``: what is known so far, by field of ``Gpu``."""

    reader: Reader
    index: int
    handle: Any = None
    slices: list[tuple[Any, MigSlice]] = field(default_factory=list)  # each with its handle
    readings: dict[str, Any] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def read_what_plans_need(self) -> None:
        """Open the GPU and read what it is, its memory, its mode and its MIG slices."""
        nvml = self.reader.nvml
        self.handle, reason = self.reader.ask(nvml.nvmlDeviceGetHandleByIndex, self.index)
        if self.handle is None:
            self.unknown["handle"] = reason
            return
        uuid = self._ask("uuid", nvml.nvmlDeviceGetUUID)
        memory, reason = _memory(self.reader, self.handle)
        if memory is None:
            sizes = ("memory_total_bytes", "memory_used_bytes", "memory_free_bytes")
            self.unknown.update(dict.fromkeys(sizes, reason))
        total, used, free, reserved = memory or (None, None, None, None)
        mig = self._ask("mig_enabled", nvml.nvmlDeviceGetMigMode)
        mode = self._ask("compute_mode", nvml.nvmlDeviceGetComputeMode)
        name = self._ask("name", nvml.nvmlDeviceGetName)
        is_mig = None if mig is None else mig[0] == nvml.NVML_DEVICE_MIG_ENABLE
        if is_mig:
            self.slices = _read_slices(self.reader, self.handle)
        self.readings.update(
            uuid=uuid,
            name=name,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=free,
            memory_reserved_bytes=reserved,
            # nvml.h on nvmlDeviceGetMemoryInfo: it is "not supported" if the GPU shares the system's memory
            unified_memory=reason == NOT_SUPPORTED,
            mig_enabled=is_mig,
            compute_mode=_compute_mode(nvml, mode),
            lost=GPU_IS_LOST in (self.unknown.get("uuid"), reason),
        )

    def read_the_rest(self) -> Gpu:
        """Read everything else and return the GPU."""
        if self.handle is None:
            lost = self.unknown["handle"] == GPU_IS_LOST
            return Gpu(index=self.index, uuid=None, lost=lost, unknown=self.unknown)
        nvml = self.reader.nvml
        utilization = self._ask("utilization_percent", nvml.nvmlDeviceGetUtilizationRates)
        pci = self._ask("pci_bus_id", nvml.nvmlDeviceGetPciInfo)
        bus_id = _text(pci.busId) if pci is not None else None
        mask = self._ask("cpu_affinity", nvml.nvmlDeviceGetCpuAffinity, _MASK_WORDS)
        processes, reason = read_processes(self.reader, self.handle)
        if processes is None:
            self.unknown["processes"] = reason
        numa = _sysfs_numa_node(bus_id)
        return Gpu(
            index=self.index,
            pci_bus_id=bus_id,
            compute_capability=self._ask("compute_capability", nvml.nvmlDeviceGetCudaComputeCapability),
            utilization_percent=None if utilization is None else int(utilization.gpu),
            numa_node=self._ask("numa_node", nvml.nvmlDeviceGetNumaNodeId) if numa is None else numa,
            cpu_affinity=None if mask is None else _cpus(mask),
            mig_slices=tuple(_with_processes(self.reader, *opened) for opened in self.slices),
            processes=processes,
            unknown=self.unknown,
            **self.readings,
        )

    def _ask(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        value, reason = self.reader.ask(function, self.handle, *args)
        if value is None:
            self.unknown[name] = reason
        return value


def _memory(reader: Reader, handle: Any) -> tuple[tuple[int, int, int, int | None] | None, str]:
    """Return total, used, free and reserved bytes, or the reason.

    Version 1 counts the driver's reserve as used, and does not say how much it is.
    """
    nvml = reader.nvml
    memory, _ = reader.ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    if memory is None:
        memory, reason = reader.ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            return None, reason
        return (int(memory.total), int(memory.used), int(memory.free), None), ""
    return (int(memory.total), int(memory.used), int(memory.free), int(memory.reserved)), ""


def read_processes(reader: Reader, handle: Any, *, names: bool = True) -> tuple[tuple[GpuProcess, ...] | None, str]:
    """Return the processes that hold memory on a device, or ``None`` and the reason."""
    nvml = reader.nvml
    processes: list[GpuProcess] = []
    answered, reason = False, ""
    for kind, function in (
        ("compute", nvml.nvmlDeviceGetComputeRunningProcesses),
        ("graphics", nvml.nvmlDeviceGetGraphicsRunningProcesses),
    ):
        entries, failure = reader.ask(function, handle)
        answered = answered or entries is not None
        reason = reason or failure
        for entry in entries or ():
            name = _process_name(entry.pid) if names else None
            processes.append(GpuProcess(entry.pid, entry.usedGpuMemory, kind, name, entry.pid == os.getpid()))
    return (tuple(processes), "") if answered else (None, reason)


def _process_name(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() or None
    return None


def _read_slices(reader: Reader, handle: Any) -> list[tuple[Any, MigSlice]]:
    """Return a GPU's slices, each with its handle, without their processes."""
    nvml = reader.nvml
    slices = []
    for index in range(reader.ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)[0] or 0):
        mig, _ = reader.ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = reader.ask(nvml.nvmlDeviceGetUUID, mig)[0] if mig is not None else None
        if uuid is None:
            continue  # the maximum counts slices that do not exist
        memory, memory_reason = _memory(reader, mig)
        total, used, free, reserved = memory or (None, None, None, None)
        name = reader.ask(nvml.nvmlDeviceGetName, mig)[0] or ""
        found = MigSlice(
            index=index,
            uuid=uuid,
            profile=name.partition(" MIG ")[2] or None,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=free,
            memory_reserved_bytes=reserved,
            gpu_instance_id=reader.ask(nvml.nvmlDeviceGetGpuInstanceId, mig)[0],
            compute_instance_id=reader.ask(nvml.nvmlDeviceGetComputeInstanceId, mig)[0],
            unknown={} if memory else {"memory_total_bytes": memory_reason},
        )
        slices.append((mig, found))
    return slices


def _with_processes(reader: Reader, handle: Any, mig: MigSlice) -> MigSlice:
    processes, reason = read_processes(reader, handle)
    return replace(mig, processes=processes, unknown={**mig.unknown, **({"processes": reason} if reason else {})})


def _read_links(reader: Reader, handles: Sequence[Any], gpus: Sequence[Gpu]) -> tuple[Link, ...]:
    nvml = reader.nvml
    far_ends = [_far_ends(reader, handle) if handle is not None else [] for handle in handles]
    pairs = {}
    for a, b in itertools.combinations(range(len(handles)), 2):
        if handles[a] is None or handles[b] is None:
            continue
        ancestor, _ = reader.ask(nvml.nvmlDeviceGetTopologyCommonAncestor, handles[a], handles[b])
        status, _ = reader.ask(nvml.nvmlDeviceGetP2PStatus, handles[a], handles[b], nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        pairs[a, b] = PairReading(ancestor, None if status is None else status == nvml.NVML_P2P_STATUS_OK)
    return links_between([gpu.pci_bus_id for gpu in gpus], far_ends, pairs)


def _far_ends(reader: Reader, handle: Any) -> list[str]:
    nvml = reader.nvml
    ends = []
    for link in range(_MAX_LINKS):
        state, _ = reader.ask(nvml.nvmlDeviceGetNvLinkState, handle, link)
        if state == nvml.NVML_FEATURE_ENABLED:
            remote, _ = reader.ask(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
            if remote is not None:
                ends.append(_text(remote.busId))
        elif state is None:
            break  # the GPU has no more links
    return ends


def _sysfs_numa_node(bus_id: str | None) -> int | None:
    """Return the kernel's NUMA node of a GPU. NVML reports one only if the GPU's memory is itself a NUMA node."""
    if bus_id is None:
        return None
    domain, _, rest = bus_id.lower().partition(":")
    with contextlib.suppress(OSError, ValueError):
        node = int(Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node").read_text())
        return node if node >= 0 else None
    return None


def _compute_mode(nvml: ModuleType, mode: int | None) -> ComputeMode | None:
    if mode is None:
        return None
    return {
        nvml.NVML_COMPUTEMODE_DEFAULT: ComputeMode.DEFAULT,
        nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: ComputeMode.EXCLUSIVE_PROCESS,
        nvml.NVML_COMPUTEMODE_PROHIBITED: ComputeMode.PROHIBITED,
    }.get(mode)


def _cpus(mask: Sequence[int]) -> tuple[int, ...]:
    return tuple(64 * word + bit for word, bits in enumerate(mask) for bit in range(64) if bits >> bit & 1)


def cuda_version(number: int | None) -> str | None:
    """Convert NVML's number of a CUDA version (13000) to the usual notation ("13.0")."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
