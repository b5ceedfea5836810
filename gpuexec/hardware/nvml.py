"""Reads GPUs through NVML. The only module that imports pynvml (package nvidia-ml-py).

Every reading is a value or a reason. So a GPU that is lost, or does not support a field, never prevents the others
from being listed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware.model import ComputeMode, Gpu, GpuProcess, Link, MigSlice
from gpuexec.hardware.topology import PairReading, links_between

_LIBRARY = "libnvidia-ml.so.1"
_MASK_WORDS = 64  # 64-bit words of a CPU mask: 4096 CPUs
_MAX_LINKS = 36  # NVML_NVLINK_MAX_LINKS


@dataclass(frozen=True, slots=True)
class NvmlListing:
    """Everything that NVML reports about the node."""

    gpus: tuple[Gpu, ...]
    links: tuple[Link, ...]
    driver_version: str | None
    cuda_version: str | None


@contextlib.contextmanager
def session() -> Iterator[ModuleType]:
    """Initialise NVML for the duration of the block. Raises ``NvmlUnavailable``."""
    try:
        import pynvml
    except ImportError as error:
        raise NvmlUnavailable(f"the Python package nvidia-ml-py is not installed ({error})") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(_unavailable_reason(pynvml, error)) from error
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def list_gpus() -> NvmlListing:
    """List the node's GPUs in NVML's (PCI) order. Raises ``NvmlUnavailable``."""
    with session() as nvml:
        reader = Reader(nvml)
        count = reader.ask(nvml.nvmlDeviceGetCount)[0] or 0
        handles = [reader.ask(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        gpus = tuple(_read_gpu(reader, i, handle, reason) for i, (handle, reason) in enumerate(handles))
        return NvmlListing(
            gpus=gpus,
            links=_read_links(reader, [handle for handle, _ in handles], gpus),
            driver_version=reader.ask(nvml.nvmlSystemGetDriverVersion)[0],
            cuda_version=cuda_version(reader.ask(nvml.nvmlSystemGetCudaDriverVersion)[0]),
        )


def memory_used(uuids: Sequence[str]) -> dict[str, int]:
    """Return the bytes in use by UUID of the device (GPU or MIG slice). Devices that cannot be read are left out."""
    used = {}
    with contextlib.suppress(NvmlUnavailable), session() as nvml:
        reader = Reader(nvml)
        for uuid in uuids:
            handle, _ = reader.ask(nvml.nvmlDeviceGetHandleByUUID, uuid)
            memory, _ = _memory(reader, handle) if handle is not None else (None, "")
            if memory is not None:
                used[uuid] = memory[1]
    return used


class ProcessMemory:
    """NVML's entry for one process on one device, to be read repeatedly within one ``session``."""

    def __init__(self, nvml: ModuleType, uuid: str, pid: int) -> None:
        self._reader = Reader(nvml)
        self._pid = pid
        self._handle, _ = self._reader.ask(nvml.nvmlDeviceGetHandleByUUID, uuid)

    def read(self) -> int | MemoryAbsence:
        """Return the bytes that the process holds, or why they are unknown."""
        if self._handle is None:
            return MemoryAbsence.DEVICE_NOT_FOUND
        processes, _ = read_processes(self._reader, self._handle, names=False)
        if processes is None:
            return MemoryAbsence.LIST_UNREADABLE
        for process in processes:
            if process.pid == self._pid:
                return MemoryAbsence.LISTED_WITHOUT_SIZE if process.used_bytes is None else process.used_bytes
        return MemoryAbsence.NOT_LISTED


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


class Reader:
    """Calls NVML functions, and returns errors as reasons instead of raising them."""

    def __init__(self, nvml: ModuleType) -> None:
        self.nvml = nvml

    def ask(self, function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
        """Return (value, "") or (None, reason)."""
        nvml = self.nvml
        try:
            value = function(*args)
        except nvml.NVMLError_NotSupported:
            return None, "not supported by this GPU"
        except nvml.NVMLError_GpuIsLost:
            return None, "the GPU is lost (it has fallen off the bus; see dmesg)"
        except nvml.NVMLError_FunctionNotFound:
            return None, "not offered by this driver version"
        except nvml.NVMLError_NoPermission:
            return None, "not permitted to this user"
        except nvml.NVMLError as error:
            return None, str(error)
        return value.decode(errors="replace") if isinstance(value, bytes) else value, ""

    def is_lost(self, handle: Any) -> bool:
        """Return whether the GPU no longer answers."""
        try:
            self.nvml.nvmlDeviceGetUUID(handle)
            self.nvml.nvmlDeviceGetMemoryInfo(handle)
        except self.nvml.NVMLError_GpuIsLost:
            return True
        except self.nvml.NVMLError:
            return False
        return False


def _unavailable_reason(nvml: ModuleType, error: Exception) -> str:
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return _load_failure_reason()
    if isinstance(error, nvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA driver is installed but its kernel module is not loaded (try nvidia-smi, or reboot)"
    if isinstance(error, nvml.NVMLError_LibRmVersionMismatch):
        return (
            "driver/library version mismatch: the loaded NVIDIA kernel module and libnvidia-ml are of different "
            "versions (after an update, reload the module or reboot)"
        )
    if isinstance(error, nvml.NVMLError_NoPermission):
        return "this user may not use the NVIDIA driver (check the permissions of /dev/nvidia*)"
    return f"NVML cannot be initialised: {error}"


def _load_failure_reason() -> str:
    """Ask the dynamic loader: pynvml reports every failure to load the library as "not found"."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        if "No such file" in str(error):
            return f"there is no NVIDIA driver on this machine ({_LIBRARY} is not installed)"
        return f"the NVIDIA driver library does not load: {error}"
    return f"{_LIBRARY} does not load in this process"


def _read_gpu(reader: Reader, index: int, handle: Any, reason: str) -> Gpu:
    nvml = reader.nvml
    if handle is None:
        return Gpu(index=index, uuid=None, lost="lost" in reason, unknown={"handle": reason})
    unknown: dict[str, str] = {}

    def read(field: str, function: Callable[..., Any], *args: Any) -> Any:
        value, reason = reader.ask(function, *args)
        if value is None:
            unknown[field] = reason
        return value

    lost = reader.is_lost(handle)
    memory, memory_reason = _memory(reader, handle)
    if memory is None:
        unknown.update(dict.fromkeys(("memory_total_bytes", "memory_used_bytes", "memory_free_bytes"), memory_reason))
    total, used, free, reserved = memory or (None, None, None, None)
    mode = read("compute_mode", nvml.nvmlDeviceGetComputeMode, handle)
    utilization = read("utilization_percent", nvml.nvmlDeviceGetUtilizationRates, handle)
    pci = read("pci_bus_id", nvml.nvmlDeviceGetPciInfo, handle)
    bus_id = _text(pci.busId) if pci is not None else None
    mask = read("cpu_affinity", nvml.nvmlDeviceGetCpuAffinity, handle, _MASK_WORDS)
    mig = read("mig_enabled", nvml.nvmlDeviceGetMigMode, handle)
    processes, processes_reason = read_processes(reader, handle)
    if processes is None:
        unknown["processes"] = processes_reason
    numa = _sysfs_numa_node(bus_id)
    return Gpu(
        index=index,
        uuid=read("uuid", nvml.nvmlDeviceGetUUID, handle),
        name=read("name", nvml.nvmlDeviceGetName, handle),
        pci_bus_id=bus_id,
        memory_total_bytes=total,
        memory_used_bytes=used,
        memory_free_bytes=free,
        memory_reserved_bytes=reserved,
        # nvml.h on nvmlDeviceGetMemoryInfo: it is "not supported" if the GPU shares the system's memory
        unified_memory=memory_reason.startswith("not supported"),
        compute_capability=read("compute_capability", nvml.nvmlDeviceGetCudaComputeCapability, handle),
        compute_mode=_compute_mode(nvml, mode),
        utilization_percent=None if utilization is None else int(utilization.gpu),
        numa_node=read("numa_node", nvml.nvmlDeviceGetNumaNodeId, handle) if numa is None else numa,
        cpu_affinity=None if mask is None else _cpus(mask),
        mig_enabled=None if mig is None else mig[0] == nvml.NVML_DEVICE_MIG_ENABLE,
        mig_slices=_read_slices(reader, handle) if mig and mig[0] == nvml.NVML_DEVICE_MIG_ENABLE else (),
        processes=processes,
        lost=lost,
        unknown=unknown,
    )


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


def _read_slices(reader: Reader, handle: Any) -> tuple[MigSlice, ...]:
    nvml = reader.nvml
    slices = []
    for index in range(reader.ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle)[0] or 0):
        mig, _ = reader.ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = reader.ask(nvml.nvmlDeviceGetUUID, mig)[0] if mig is not None else None
        if uuid is None:
            continue  # the maximum counts slices that do not exist
        memory, memory_reason = _memory(reader, mig)
        processes, processes_reason = read_processes(reader, mig)
        total, used, free, reserved = memory or (None, None, None, None)
        name = reader.ask(nvml.nvmlDeviceGetName, mig)[0] or ""
        reasons = {"memory_total_bytes": memory_reason, "processes": processes_reason}
        slices.append(
            MigSlice(
                index=index,
                uuid=uuid,
                profile=name.partition(" MIG ")[2] or None,
                memory_total_bytes=total,
                memory_used_bytes=used,
                memory_free_bytes=free,
                memory_reserved_bytes=reserved,
                gpu_instance_id=reader.ask(nvml.nvmlDeviceGetGpuInstanceId, mig)[0],
                compute_instance_id=reader.ask(nvml.nvmlDeviceGetComputeInstanceId, mig)[0],
                processes=processes,
                unknown={field: reason for field, reason in reasons.items() if reason},
            )
        )
    return tuple(slices)


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
