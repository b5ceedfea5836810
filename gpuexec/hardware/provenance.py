"""The state of the GPUs before and after a run, so that the run's stats can be judged later.

``contamination`` compares the two states and says what makes the stats doubtful. What came and went in between is
visible only if the driver counts it (throttling). User names, command lines and environments are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware import nvml, nvml_calls, nvml_errors
from gpuexec.hardware.clock_reasons import SLOWDOWNS, THROTTLE_COUNTERS, clock_reasons
from gpuexec.hardware.host import in_initial_pid_namespace
from gpuexec.hardware.model import GpuProcess
from gpuexec.hardware.mps import PROCESS_NAME
from gpuexec.units import GIB


@dataclass(frozen=True, slots=True)
class GpuState:
    """One physical GPU at one moment. ``None``: not readable; ``unknown`` has the reason under the field's name.

    ``clock_reasons``: what limited the clocks at that moment. ``throttled_ns``: for how long the clocks have been
    limited so far, by reason, in nanoseconds.
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
    """Driver and GPUs at one moment. ``missing``: why a requested device is not in ``gpus``, by UUID.

    ``foreign_pids``: the pids that NVML reports may be of another pid namespace than ours, as in containers. ``hang``:
    the NVML call that did not return; what was to be read after it is unknown.
    """

    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: tuple[GpuState, ...] = ()
    foreign_pids: bool = False
    missing: Mapping[str, str] = field(default_factory=dict, hash=False)
    hang: str | None = None


def read_provenance(uuids: Sequence[str], at_most_s: float = float("inf")) -> Provenance:
    """Read the GPUs that the given devices (GPUs or MIG slices) are on. Without a driver, all of them are missing.

    ``at_most_s``: how long to wait for a call into the driver library, if that is less than usual.
    """
    try:
        with nvml_calls.session(nvml_calls.RUNNING_TIMEOUT_S, at_most_s=at_most_s) as reader:
            library = reader.nvml
            opened, missing = nvml.open_gpus(reader, uuids)
            foreign = not in_initial_pid_namespace()
            state = Provenance(
                driver_version=reader.ask(library.nvmlSystemGetDriverVersion)[0],
                cuda_version=nvml.cuda_version(reader.ask(library.nvmlSystemGetCudaDriverVersion)[0]),
                gpus=tuple(_read_state(reader, gpu, names=not foreign) for gpu in opened),
                foreign_pids=foreign,
                missing=missing,
            )
    except NvmlUnavailable as error:
        state = Provenance(missing=dict.fromkeys(uuids, str(error)))
    return replace(state, hang=nvml_calls.hung_call())


def contamination(before: Provenance, after: Provenance, own_pids: Collection[int]) -> list[str]:
    """Return what makes the stats of a run doubtful, one sentence for each finding. Pure.

    ``own_pids``: the pids of this process and of every process that the run started. They cannot be compared with
    foreign pids; then only processes that were there before the run are known to be others'.
    """
    later = {gpu.uuid: gpu for gpu in after.gpus}
    notes = list(_hangs(before, after))
    for gpu in before.gpus:
        now = later.get(gpu.uuid)
        name = f"GPU {gpu.index}"
        notes += _other_processes(name, gpu, now, own_pids, foreign=before.foreign_pids or after.foreign_pids)
        if now is None:
            if after.hang is None:
                notes.append(f"{name} could not be read after the run: {_missing_reason(gpu, after)}")
            continue
        notes += _slowdowns(name, gpu, now)
        if None not in (gpu.power_limit_mw, now.power_limit_mw) and gpu.power_limit_mw != now.power_limit_mw:
            limits = [f"{(limit or 0) / 1000:g} W" for limit in (gpu.power_limit_mw, now.power_limit_mw)]
            notes.append(f"{name}: its power limit was changed from {limits[0]} to {limits[1]} during the run")
    return notes


def _hangs(before: Provenance, after: Provenance) -> Iterator[str]:
    """Say once what did not return, however many readings are missing because of it."""
    when = {"before the run": before.hang, "after the run": after.hang}
    for hang in dict.fromkeys(hang for hang in when.values() if hang is not None):
        moments = " and ".join(moment for moment, found in when.items() if found == hang)
        yield f"not everything could be read of the GPUs {moments}: {nvml_errors.with_remedy(hang)}"


def _other_processes(
    name: str, before: GpuState, after: GpuState | None, own_pids: Collection[int], *, foreign: bool
) -> Iterator[str]:
    earlier = _by_pid(before)
    later = _by_pid(after) if after is not None else {}
    for pid in sorted(earlier if foreign else {*earlier, *later}):
        if pid in own_pids and not foreign:
            continue
        entries = [readings[pid] for readings in (earlier, later) if pid in readings]
        sizes = [entry.used_bytes for entry in entries if entry.used_bytes is not None]
        held = f"{max(sizes) / GIB:.1f} GiB" if sizes else "an unknown amount of memory"
        process = ", ".join([f"pid {pid}", *{entry.name: 0 for entry in entries if entry.name}])
        if foreign:
            yield f"{name}: a process that was there before the run ({process}, in another pid namespace) held {held}"
        else:
            when = "during the run" if pid in earlier else "when the run ended"
            yield f"{name}: another process ({process}) held {held} {when}"


def _slowdowns(name: str, before: GpuState, after: GpuState) -> Iterator[str]:
    """Use the driver's counters where there are any: at the end of the run the GPU is already cooling down."""
    counted = set()
    if before.throttled_ns is not None and after.throttled_ns is not None:
        for reason, total in after.throttled_ns.items():
            increase = total - before.throttled_ns.get(reason, total)
            counted.add(reason)
            if reason in SLOWDOWNS and increase > 0:
                yield f"{name} was throttled for {increase / 1e9:.3g} s of the run: {reason}"
    for reason in SLOWDOWNS:
        moments = [
            moment
            for moment, state in (("when the run began", before), ("when it ended", after))
            if reason in (state.clock_reasons or ())
        ]
        if moments and reason not in counted:
            yield f"{name} was throttled {' and '.join(moments)}: {reason}"


def _missing_reason(gpu: GpuState, after: Provenance) -> str:
    return after.missing.get(gpu.uuid) or next(iter(after.missing.values()), "it was not requested")


def _by_pid(state: GpuState) -> dict[int, GpuProcess]:
    """Return one entry per process: one that both computes and draws is listed twice, with the same memory.

    What an MPS server does, it does for its clients, so it is left out.
    """
    return {p.pid: p for p in state.processes or () if not (p.name or "").startswith(PROCESS_NAME)}


def _read_state(reader: nvml_calls.Reader, gpu: nvml.OpenGpu, *, names: bool) -> GpuState:
    library = reader.nvml
    unknown: dict[str, str] = {}

    def read(field_name: str, function: Callable[..., Any], *args: Any) -> Any:
        value, reason = reader.ask(function, gpu.handle, *args)
        if value is None:
            unknown[field_name] = reason
        return value

    clock_mask = read("clock_reasons", library.nvmlDeviceGetCurrentClocksEventReasons)
    counters = read("throttled_ns", library.nvmlDeviceGetFieldValues, list(THROTTLE_COUNTERS))
    throttled = {
        THROTTLE_COUNTERS[int(value.fieldId)]: int(value.value.ullVal)
        for value in counters or ()
        if value.nvmlReturn == library.NVML_SUCCESS
    }
    if counters is not None and not throttled:
        unknown["throttled_ns"] = "not counted by this GPU or driver version"
    processes, reason = nvml.read_processes(reader, gpu.handle, names=names)
    if processes is None:
        unknown["processes"] = reason
    return GpuState(
        index=gpu.index,
        uuid=gpu.uuid,
        sm_clock_mhz=read("sm_clock_mhz", library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_SM),
        memory_clock_mhz=read("memory_clock_mhz", library.nvmlDeviceGetClockInfo, library.NVML_CLOCK_MEM),
        power_limit_mw=read("power_limit_mw", library.nvmlDeviceGetEnforcedPowerLimit),
        clock_reasons=None if clock_mask is None else clock_reasons(int(clock_mask)),
        throttled_ns=throttled or None,
        processes=processes,
        unknown=unknown,
    )
