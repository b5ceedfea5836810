"""In what state the GPUs of a run were, so that its figures can be judged later.

Read before and after a run; ``contamination`` says what in between makes its figures doubtful. What came and
went in between is only seen where the driver counts it (throttling). User names, command lines and environments
are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware import nvml
from gpuexec.hardware.host import in_initial_pid_namespace
from gpuexec.hardware.model import GpuProcess
from gpuexec.units import GIB

# nvmlClocksEventReasons. The power cap is not a fault: a GPU under full load runs at its power limit.
_CLOCK_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "HW slowdown",
    0x10: "sync boost",
    0x20: "SW thermal slowdown",
    0x40: "HW thermal slowdown",
    0x80: "HW power brake slowdown",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# NVML_FI_DEV_CLOCKS_EVENT_REASON_*: nanoseconds since the driver was loaded
_THROTTLE_COUNTERS = {
    74: "power cap",
    269: "SW thermal slowdown",
    270: "HW thermal slowdown",
    271: "HW power brake slowdown",
}
_SLOWDOWNS = ("HW slowdown", "SW thermal slowdown", "HW thermal slowdown", "HW power brake slowdown", "reliability")


@dataclass(frozen=True, slots=True)
class GpuState:
    """One physical GPU at one moment. ``None``: not readable, the reason is in ``unknown`` by field.

    ``clock_reasons``: what held the clocks down at that moment. ``throttled_ns``: how long they have been held
    down so far, by reason, in nanoseconds.
    """

    index: int
    uuid: str
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_mw: int | None = None
    clock_reasons: tuple[str, ...] | None = None
    throttled_ns: Mapping[str, int] | None = field(default=None, hash=False)
    processes: tuple[GpuProcess, ...] | None = None
    unknown: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Driver and GPUs at one moment. ``missing``: why a device asked for is not in ``gpus``, by UUID.

    ``foreign_pids``: NVML's pids may be of another pid namespace than ours, as in containers.
    """

    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: tuple[GpuState, ...] = ()
    foreign_pids: bool = False
    missing: Mapping[str, str] = field(default_factory=dict, hash=False)


def read_provenance(uuids: Sequence[str]) -> Provenance:
    """Read the GPUs that the given devices (GPUs or MIG slices) are on. Never raises for want of a driver."""
    try:
        with nvml.session() as library:
            reader = nvml.Reader(library)
            opened, missing = nvml.open_gpus(reader, uuids)
            foreign = not in_initial_pid_namespace()
            return Provenance(
                driver_version=reader.ask(library.nvmlSystemGetDriverVersion)[0],
                cuda_version=nvml.cuda_version(reader.ask(library.nvmlSystemGetCudaDriverVersion)[0]),
                gpus=tuple(_read_state(reader, gpu, names=not foreign) for gpu in opened),
                foreign_pids=foreign,
                missing=missing,
            )
    except NvmlUnavailable as error:
        return Provenance(missing=dict.fromkeys(uuids, str(error)))


def contamination(before: Provenance, after: Provenance, own_pids: Collection[int]) -> list[str]:
    """Say what makes the figures of a run doubtful, a sentence each. Pure.

    ``own_pids``: of this process and of every process the run started. Where pids are foreign they tell
    nothing, so only processes that were there before the run are called others'.
    """
    later = {gpu.uuid: gpu for gpu in after.gpus}
    notes: list[str] = []
    for gpu in before.gpus:
        now = later.get(gpu.uuid)
        name = f"GPU {gpu.index}"
        notes += _tenants(name, gpu, now, own_pids, foreign=before.foreign_pids or after.foreign_pids)
        if now is None:
            notes.append(f"{name} could not be read after the run: {_why_missing(gpu, after)}")
            continue
        notes += _slowdowns(name, gpu, now)
        if None not in (gpu.power_limit_mw, now.power_limit_mw) and gpu.power_limit_mw != now.power_limit_mw:
            limits = [f"{(limit or 0) / 1000:g} W" for limit in (gpu.power_limit_mw, now.power_limit_mw)]
            notes.append(f"{name}: its power limit was changed from {limits[0]} to {limits[1]} during the run")
    return notes


def _tenants(
    name: str, before: GpuState, after: GpuState | None, own_pids: Collection[int], *, foreign: bool
) -> Iterator[str]:
    earlier = _by_pid(before)
    later = _by_pid(after) if after is not None else {}
    for pid in sorted(earlier if foreign else {*earlier, *later}):
        if pid in own_pids and not foreign:
            continue
        entries = [readings[pid] for readings in (earlier, later) if pid in readings]
        known = [entry.used_bytes for entry in entries if entry.used_bytes is not None]
        held = f"{max(known) / GIB:.1f} GiB" if known else "memory (how much is unknown)"
        who = ", ".join([f"pid {pid}", *{entry.name: 0 for entry in entries if entry.name}])
        if foreign:
            yield f"{name}: a process that was there before the run ({who}, of another pid namespace) held {held}"
        else:
            when = "during the run" if pid in earlier else "when the run ended"
            yield f"{name}: another process ({who}) held {held} {when}"


def _slowdowns(name: str, before: GpuState, after: GpuState) -> Iterator[str]:
    """Prefer the driver's counters to what two moments show: after the run the GPU cools down."""
    counted = set()
    if before.throttled_ns is not None and after.throttled_ns is not None:
        for reason, total in after.throttled_ns.items():
            grown = total - before.throttled_ns.get(reason, total)
            counted.add(reason)
            if reason in _SLOWDOWNS and grown > 0:
                yield f"{name} was throttled for {grown / 1e9:.3g} s of the run: {reason}"
    for reason in _SLOWDOWNS:
        seen = [
            when
            for when, state in (("when the run began", before), ("when it ended", after))
            if reason in (state.clock_reasons or ())
        ]
        if seen and reason not in counted:
            yield f"{name} was throttled {' and '.join(seen)}: {reason}"


def _why_missing(gpu: GpuState, after: Provenance) -> str:
    return after.missing.get(gpu.uuid) or next(iter(after.missing.values()), "it was not asked for")


def _by_pid(state: GpuState) -> dict[int, GpuProcess]:
    """One entry a process: one that computes and draws is listed twice, with the same memory."""
    return {process.pid: process for process in state.processes or ()}


def _read_state(reader: nvml.Reader, gpu: nvml.OpenGpu, *, names: bool) -> GpuState:
    library = reader.nvml
    unknown: dict[str, str] = {}

    def read(field_name: str, function: Callable[..., Any], *args: Any) -> Any:
        value, why = reader.ask(function, gpu.handle, *args)
        if value is None:
            unknown[field_name] = why
        return value

    reasons = read("clock_reasons", library.nvmlDeviceGetCurrentClocksEventReasons)
    counters = read("throttled_ns", library.nvmlDeviceGetFieldValues, list(_THROTTLE_COUNTERS))
    throttled = {
        _THROTTLE_COUNTERS[int(value.fieldId)]: int(value.value.ullVal)
        for value in counters or ()
        if value.nvmlReturn == library.NVML_SUCCESS
    }
    if counters is not None and not throttled:
        unknown["throttled_ns"] = "not counted by this GPU or driver version"
    processes, why = nvml.read_processes(reader, gpu.handle, names=names)
    if processes is None:
        unknown["processes"] = why
    return GpuState(
        index=gpu.index,
        uuid=gpu.uuid,
        sm_clock_mhz=read("sm_clock_mhz", library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_SM),
        memory_clock_mhz=read("memory_clock_mhz", library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_MEM),
        power_limit_mw=read("power_limit_mw", library.nvmlDeviceGetEnforcedPowerLimit),
        clock_reasons=None if reasons is None else _words(int(reasons)),
        throttled_ns=throttled or None,
        processes=processes,
        unknown=unknown,
    )


def _words(mask: int) -> tuple[str, ...]:
    return tuple(_CLOCK_REASONS.get(1 << bit, f"reason {1 << bit:#x}") for bit in range(64) if mask >> bit & 1)
