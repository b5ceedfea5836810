"""Faults of GPUs that NVML reports while the GPUs are used: XID events and lost GPUs.

XIDs are the driver's error numbers, listed in the NVIDIA XID catalogue ("XID Errors", docs.nvidia.com). Whether an
XID condemns the GPU follows from the catalogue's immediate action. It does if the action is to reset the GPU or to
have it serviced. It does not if the action is to restart the application, or if there is none: after a bad pointer
in a kernel (13, 31), a killed process (43, 45) or a contained memory error (94), the next process can use the GPU.
109 counts as the application's fault, as in NVIDIA's device plugin for Kubernetes, although the catalogue advises
a reset.

An XID that is not listed is reported and does not condemn the GPU. That may be wrong either way. But a GPU that is
really broken soon fails its workers or is lost, whereas one that is cordoned by mistake may be the run's only one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpuexec.errors import NvmlHangs
from gpuexec.hardware.nvml import OpenGpu, open_gpus
from gpuexec.hardware.nvml_calls import Reader, address
from gpuexec.hardware.nvml_errors import reason
from gpuexec.hardware.xids import XIDS

_WHOLE_GPU = 0xFFFFFFFF  # gpuInstanceId of an event that does not concern a single MIG slice
_MAX_DRAINED = 256  # events read at once

CONDEMNING_XIDS = {n: XIDS[n].what for n in (46, 48, 54, 62, 64, 74, 79, 95, 110, 119, 120, 140, 143)}
SURVIVABLE_XIDS = {n: XIDS[n].what for n in (8, 11, 13, 31, 32, 43, 45, 63, 68, 69, 92, 94, 109, 137, 154)}


class FaultKind(StrEnum):
    """What happened to a GPU."""

    XID = "xid"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """A fault of a physical GPU. ``fatal``: nothing more should run on ``devices``.

    ``uuid`` and ``index`` are the physical GPU's; they are ``None`` where the event could not be traced to one.
    ``devices`` are the UUIDs of the watched devices that it concerns (of MIG slices in MIG mode). ``times``: how
    many equal faults this one stands for; one bad kernel raises hundreds.
    """

    uuid: str | None
    index: int | None
    kind: FaultKind
    devices: tuple[str, ...]
    description: str
    fatal: bool
    xid: int | None = None
    times: int = 1

    @property
    def text(self) -> str:
        """What happened and what it means for the GPU, in one line."""
        return self.description if self.times == 1 else f"{self.description} (reported {self.times} times)"


class GpuEvents:
    """Waits for faults of some devices, within one NVML session and in one thread. ``close`` frees the event set.

    ``unwatched`` says, by the device's UUID, why its XIDs or the device itself are not watched. In MIG mode, an
    unprivileged process receives only events that concern the whole GPU (nvml.h, nvmlEventSetWait_v2).
    """

    def __init__(self, reader: Reader, uuids: Sequence[str]) -> None:
        self._nvml = reader.nvml
        self._reader = reader
        self._opened, self.unwatched = open_gpus(self._reader, uuids)
        self._gpus = self._opened
        self._set: Any = None
        self._registered: tuple[OpenGpu, ...] = ()
        self._open_event_set(self._gpus)

    @property
    def gpus(self) -> tuple[OpenGpu, ...]:
        """The watched physical GPUs, without those already reported as lost."""
        return self._gpus

    @property
    def can_wait(self) -> bool:
        """Whether any GPU reports events. If not, only ``look_for_lost`` finds faults."""
        return bool(self._registered)

    def wait(self, timeout_ms: int) -> list[GpuFault]:
        """Wait at most ``timeout_ms`` for an event, without holding the interpreter's lock. Raises ``NvmlHangs``.

        Return its fault, and those of all events that arrived with it: one bad kernel raises hundreds at once.
        """
        late = [
            fault
            for event in self._reader.take_late_values(self._nvml.nvmlEventSetWait_v2)
            for fault in self._fault_of(event)
        ]
        if late:
            return late
        try:
            first = self._wait(self._set, timeout_ms)
            return self._fault_of(first) + self._drain(self._set)
        except self._nvml.NVMLError_Timeout:
            return []
        except self._nvml.NVMLError as error:
            lost = self.look_for_lost()  # the error does not say which GPU
            if not lost:  # every further wait would fail at once
                self._give_up(
                    f"NVML stopped reporting events ({reason(error)}); from now on only a lost GPU is noticed"
                )
            return lost

    def look_for_lost(self) -> list[GpuFault]:
        """Return the GPUs that no longer answer, each once: it is no longer watched. Raises ``NvmlHangs``."""
        lost: list[OpenGpu] = []
        try:
            for gpu in self._gpus:
                if self._reader.is_lost(gpu.handle):
                    lost.append(gpu)  # noqa: PERF401 - those before a call that hangs are kept
        except NvmlHangs:
            if not lost:
                raise
        if not lost:
            return []
        self._gpus = tuple(gpu for gpu in self._gpus if gpu not in lost)
        return [_lost(gpu) for gpu in lost] + self._drop_lost()

    def close(self) -> None:
        """Free the event set; idempotent."""
        event_set, self._set, self._registered = self._set, None, ()
        self._free(event_set)

    def _open_event_set(self, gpus: Sequence[OpenGpu]) -> None:
        nvml = self._nvml
        self._set, why = self._reader.ask(nvml.nvmlEventSetCreate)
        registered = []
        for gpu in gpus:
            if self._set is not None:
                why = self._register(gpu)
            if why:
                self.unwatched.update(dict.fromkeys(gpu.devices, f"XID events: {why}"))
            else:
                registered.append(gpu)
        self._registered = tuple(registered)

    def _register(self, gpu: OpenGpu) -> str:
        """Register for a GPU's XID events. Return why that failed, or ""."""
        nvml = self._nvml
        return self._reader.ask(
            nvml.nvmlDeviceRegisterEvents, gpu.handle, nvml.nvmlEventTypeXidCriticalError, self._set
        )[1]

    def _drop_lost(self) -> list[GpuFault]:
        """Replace the event set by one without the lost GPUs: with them in it, every wait may fail at once.

        The new set is registered before the old one is emptied, so that no event is missed; one may come twice.
        Return the faults left in the old set.
        """
        old = self._set
        self._open_event_set([gpu for gpu in self._registered if gpu in self._gpus])
        remaining = self._drain(old) if old is not None else []
        self._free(old)
        return remaining

    def _drain(self, event_set: Any) -> list[GpuFault]:
        """Read the events that are already there. An error is ignored: the next wait returns it again."""
        faults: list[GpuFault] = []
        with contextlib.suppress(self._nvml.NVMLError, NvmlHangs):
            for _ in range(_MAX_DRAINED):
                faults += self._fault_of(self._wait(event_set, 0))
        return faults

    def _wait(self, event_set: Any, timeout_ms: int) -> Any:
        return self._reader.call(self._nvml.nvmlEventSetWait_v2, event_set, timeout_ms, blocks_s=timeout_ms / 1000)

    def _give_up(self, why: str) -> None:
        for gpu in self._registered:
            self.unwatched.update(dict.fromkeys(gpu.devices, why))
        self.close()

    def _free(self, event_set: Any) -> None:
        if event_set is not None:
            self._reader.ask(self._nvml.nvmlEventSetFree, event_set)

    def _fault_of(self, event: Any) -> list[GpuFault]:
        """Return an event's fault; nothing if it concerns a MIG slice that is not watched."""
        xid = int(event.eventData)
        gpu = self._source_of(event)
        if gpu is None:
            return [
                GpuFault(
                    uuid=None,
                    index=None,
                    kind=FaultKind.XID,
                    devices=(),
                    description=f"a GPU: {_explanation(xid)}",
                    fatal=False,
                    xid=xid,
                )
            ]
        devices = tuple(gpu.devices)
        if event.gpuInstanceId != _WHOLE_GPU:
            devices = tuple(d for d, instance in gpu.devices.items() if instance in (event.gpuInstanceId, None))
            if not devices:
                return []
        return [
            GpuFault(
                uuid=gpu.uuid,
                index=gpu.index,
                kind=FaultKind.XID,
                devices=devices,
                description=f"GPU {gpu.index}: {_explanation(xid)}",
                fatal=xid in CONDEMNING_XIDS,
                xid=xid,
            )
        ]

    def _source_of(self, event: Any) -> OpenGpu | None:
        """Find an event's GPU by its handle first, since a GPU that was just lost no longer reports its UUID."""
        for gpu in self._opened:
            if address(gpu.handle) == address(event.device):
                return gpu
        uuid, _ = self._reader.ask(self._nvml.nvmlDeviceGetUUID, event.device)
        return next((gpu for gpu in self._opened if gpu.uuid == uuid), None)


def _explanation(xid: int) -> str:
    if xid in CONDEMNING_XIDS:
        return f"XID {xid} ({CONDEMNING_XIDS[xid]}): it must be reset or serviced before it is used again"
    if xid in SURVIVABLE_XIDS:
        return f"XID {xid} ({SURVIVABLE_XIDS[xid]}): the GPU itself can still be used"
    return f"XID {xid} (see the NVIDIA XID catalogue): assumed to be harmless to the GPU itself"


def _lost(gpu: OpenGpu) -> GpuFault:
    return GpuFault(
        uuid=gpu.uuid,
        index=gpu.index,
        kind=FaultKind.LOST,
        devices=tuple(gpu.devices),
        description=f"GPU {gpu.index} is lost (it has fallen off the bus; see dmesg): it needs a reset or a reboot",
        fatal=True,
    )
