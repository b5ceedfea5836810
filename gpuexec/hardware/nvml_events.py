"""What NVML reports of GPUs that go wrong while they are used: XID events and lost GPUs.

XIDs are the driver's error numbers, listed in the NVIDIA XID catalogue ("XID Errors", docs.nvidia.com). Its
immediate action decides here: where it says to reset the GPU or to have it serviced, the GPU is condemned;
where it says to restart the application, or nothing, it is not: a bad pointer in a kernel (13, 31), a process
that was killed (43, 45) or a contained memory error (94) leave the GPU fit for the next process. 109 counts as
the application's, as in NVIDIA's device plugin for Kubernetes, although the catalogue advises a reset.

An XID that is not listed is reported and does not condemn. Both mistakes are possible; but a GPU that is
really broken soon fails its workers or is lost, while one that is cordoned wrongly may be the run's only one.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any

from gpuexec.hardware.nvml import OpenGpu, Reader, open_gpus

_WHOLE_GPU = 0xFFFFFFFF  # gpuInstanceId of an event that concerns no one MIG slice
_MAX_DRAINED = 256  # events taken at once

CONDEMNING_XIDS = {
    46: "GPU stopped processing",
    48: "double-bit ECC error",
    54: "auxiliary power is not connected",
    62: "internal micro-controller halted",
    64: "row remapping or page retirement failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    110: "security fault",
    119: "GSP did not answer in time",
    120: "GSP error",
    140: "unrecovered ECC error",
    143: "GPU initialisation failed",
}
SURVIVABLE_XIDS = {
    8: "a channel timed out",
    11: "invalid or corrupted push buffer",
    13: "graphics engine exception",
    31: "memory page fault",
    32: "invalid or corrupted push buffer",
    43: "a process's work was stopped",
    45: "clean-up after an earlier error or a killed process",
    63: "row remapping or page retirement recorded, done at the next reset",
    68: "video decoder exception",
    69: "graphics engine class error",
    92: "many corrected ECC errors",
    94: "contained memory error",
    109: "context switch timeout",
    137: "NVLink access fault",
    154: "the advised recovery action changed, see nvidia-smi -q",
}


class FaultKind(StrEnum):
    """What happened to a GPU."""

    XID = "xid"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """Something that happened to a physical GPU. ``fatal``: nothing more should run on ``devices``.

    ``uuid`` and ``index`` are the physical GPU's, ``None`` where the event could not be traced to one;
    ``devices`` are the UUIDs among those watched that it concerns (of MIG slices in MIG mode); ``times``
    counts equal faults.
    """

    uuid: str | None
    index: int | None
    kind: FaultKind
    devices: tuple[str, ...]
    text: str
    fatal: bool
    xid: int | None = None
    times: int = 1


class GpuEvents:
    """Waits for faults of some devices within one NVML session. For one thread; ``close`` frees the event set.

    ``unwatched`` says by UUID of the device why its XIDs, or the device itself, are not watched. In MIG mode an
    unprivileged process hears of what concerns the whole GPU only (nvml.h, nvmlEventSetWait_v2).
    """

    def __init__(self, nvml: ModuleType, uuids: Sequence[str]) -> None:
        self._nvml = nvml
        self._reader = Reader(nvml)
        self._opened, self.unwatched = open_gpus(self._reader, uuids)
        self._gpus = self._opened
        self._set: Any = None
        self._listening: tuple[OpenGpu, ...] = ()
        self._listen(self._gpus)

    @property
    def gpus(self) -> tuple[OpenGpu, ...]:
        """The physical GPUs that are watched, without those already reported as lost."""
        return self._gpus

    @property
    def can_wait(self) -> bool:
        """Whether any GPU reports events; if not, only ``look_for_lost`` finds anything."""
        return bool(self._listening)

    def wait(self, timeout_ms: int) -> list[GpuFault]:
        """Block until an event arrives, at most ``timeout_ms``, without holding the interpreter's lock.

        Returns it with those that came along: one bad kernel raises hundreds of events at once.
        """
        try:
            first = self._nvml.nvmlEventSetWait_v2(self._set, timeout_ms)
            return self._fault_of(first) + self._drain(self._set)
        except self._nvml.NVMLError_Timeout:
            return []
        except self._nvml.NVMLError as error:
            lost = self.look_for_lost()  # the error does not say which GPU
            if not lost:  # it would be answered again at once, for ever
                self._give_up(f"NVML stopped reporting events ({error}); only a lost GPU would be noticed")
            return lost

    def look_for_lost(self) -> list[GpuFault]:
        """Ask every GPU for a sign of life; one that is lost is reported once and watched no more."""
        lost = [gpu for gpu in self._gpus if self._reader.is_lost(gpu.handle)]
        if not lost:
            return []
        self._gpus = tuple(gpu for gpu in self._gpus if gpu not in lost)
        return [_lost(gpu) for gpu in lost] + self._leave_out_lost()

    def close(self) -> None:
        """Free the event set; idempotent."""
        given_up, self._set, self._listening = self._set, None, ()
        self._free(given_up)

    def _listen(self, gpus: Sequence[OpenGpu]) -> None:
        nvml = self._nvml
        self._set, why = self._reader.ask(nvml.nvmlEventSetCreate)
        listening = []
        for gpu in gpus:
            if self._set is not None:
                why = self._register(gpu)
            if why:
                self.unwatched.update(dict.fromkeys(gpu.devices, f"XID events: {why}"))
            else:
                listening.append(gpu)
        self._listening = tuple(listening)

    def _register(self, gpu: OpenGpu) -> str:
        """Ask for a GPU's XID events; returns why that failed."""
        nvml = self._nvml
        return self._reader.ask(
            nvml.nvmlDeviceRegisterEvents, gpu.handle, nvml.nvmlEventTypeXidCriticalError, self._set
        )[1]

    def _leave_out_lost(self) -> list[GpuFault]:
        """Move to an event set without the lost GPUs: with one in it, every wait may end in an error at once.

        The new set listens before the old one is emptied, so that no event falls between; one may come twice.
        """
        old = self._set
        self._listen([gpu for gpu in self._listening if gpu in self._gpus])
        left = self._drain(old) if old is not None else []
        self._free(old)
        return left

    def _drain(self, event_set: Any) -> list[GpuFault]:
        """Take what is there already; an error is left to the next wait, which is answered the same."""
        found: list[GpuFault] = []
        with contextlib.suppress(self._nvml.NVMLError):
            for _ in range(_MAX_DRAINED):
                found += self._fault_of(self._nvml.nvmlEventSetWait_v2(event_set, 0))
        return found

    def _give_up(self, reason: str) -> None:
        for gpu in self._listening:
            self.unwatched.update(dict.fromkeys(gpu.devices, reason))
        self.close()

    def _free(self, event_set: Any) -> None:
        if event_set is not None:
            self._reader.ask(self._nvml.nvmlEventSetFree, event_set)

    def _fault_of(self, event: Any) -> list[GpuFault]:
        """Turn an event into a fault; none if it concerns a MIG slice of somebody else."""
        xid = int(event.eventData)
        gpu = self._source_of(event)
        if gpu is None:
            return [GpuFault(None, None, FaultKind.XID, (), f"a GPU: {_words(xid)}", fatal=False, xid=xid)]
        devices = tuple(gpu.devices)
        if event.gpuInstanceId != _WHOLE_GPU:
            devices = tuple(d for d, instance in gpu.devices.items() if instance in (event.gpuInstanceId, None))
            if not devices:
                return []
        text = f"GPU {gpu.index}: {_words(xid)}"
        return [GpuFault(gpu.uuid, gpu.index, FaultKind.XID, devices, text, xid in CONDEMNING_XIDS, xid)]

    def _source_of(self, event: Any) -> OpenGpu | None:
        """By the handle first: a GPU that was just lost does not tell its UUID any more."""
        for gpu in self._opened:
            if _address(gpu.handle) == _address(event.device):
                return gpu
        uuid, _ = self._reader.ask(self._nvml.nvmlDeviceGetUUID, event.device)
        return next((gpu for gpu in self._opened if gpu.uuid == uuid), None)


def _words(xid: int) -> str:
    if xid in CONDEMNING_XIDS:
        return f"XID {xid} ({CONDEMNING_XIDS[xid]}): it must be reset or serviced before it is used again"
    if xid in SURVIVABLE_XIDS:
        return f"XID {xid} ({SURVIVABLE_XIDS[xid]}): the GPU itself can still be used"
    return f"XID {xid} (see the NVIDIA XID catalogue): taken for harmless to the GPU itself"


def _lost(gpu: OpenGpu) -> GpuFault:
    text = f"GPU {gpu.index} is lost (it has fallen off the bus; see dmesg): it needs a reset or a reboot"
    return GpuFault(gpu.uuid, gpu.index, FaultKind.LOST, tuple(gpu.devices), text, fatal=True)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
