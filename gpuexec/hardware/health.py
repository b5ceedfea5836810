"""How the GPUs are: their modes, memory errors, what the driver advises, and their links to the host.

Nothing here is needed for a plan or a run. Field numbers are those of nvml.h (NVML_FI_DEV_*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum
from typing import Any

from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware import nvml_calls, nvml_errors
from gpuexec.hardware.clock_reasons import THROTTLE_COUNTERS, clock_reasons
from gpuexec.hardware.field_values import read_fields
from gpuexec.records import Record

_NUMBERS = {
    3: "ecc_corrected",
    4: "ecc_uncorrected",
    6: "ecc_uncorrected_ever",
    29: "retired_pages_single",
    30: "retired_pages_double",
    31: "retirement_pending",
    142: "remapped_correctable",
    143: "remapped_uncorrectable",
    144: "remap_pending",
    145: "remap_failed",
    230: "recovery_action",
}


class RecoveryAction(IntEnum):
    """What the driver asks for after a fault (nvmlDeviceGpuRecoveryAction_t, field 230)."""

    NONE = 0
    GPU_RESET = 1
    NODE_REBOOT = 2
    DRAIN_P2P = 3
    DRAIN_AND_RESET = 4
    RECOVER_IMEX_DOMAIN = 5
    BUS_RESET = 6
    SYSTEM_REBOOT = 7


class GpuHealth(Record):
    """One physical GPU. ``None``: not readable; ``unknown`` has the reason under the field's name.

    ``mig_pending``, ``ecc_pending``: the mode after the next reset. ``ecc_corrected``, ``ecc_uncorrected``: errors
    since the driver was loaded; ``ecc_uncorrected_ever``: in the board's life. Rows of memory are remapped by GPUs
    since Ampere; older ones retire pages. ``remap_pending``, ``retirement_pending``: something is done at the next
    reset. ``recovery_action``: a `RecoveryAction`, or a number that is none. PCIe widths are in lanes; the maximum is
    what GPU and slot can do together, and the present speed (generation) is low while the GPU idles. ``throttled_ns``:
    since the driver was loaded, by reason.
    """

    index: int
    uuid: str | None = None
    persistence_mode: bool | None = None
    mig_enabled: bool | None = None
    mig_pending: bool | None = None
    ecc_enabled: bool | None = None
    ecc_pending: bool | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    ecc_uncorrected_ever: int | None = None
    retired_pages_single: int | None = None
    retired_pages_double: int | None = None
    retirement_pending: int | None = None
    remapped_correctable: int | None = None
    remapped_uncorrectable: int | None = None
    remap_pending: int | None = None
    remap_failed: int | None = None
    recovery_action: int | None = None
    pcie_width: int | None = None
    pcie_max_width: int | None = None
    pcie_generation: int | None = None
    pcie_max_generation: int | None = None
    clock_reasons: tuple[str, ...] | None = None
    throttled_ns: Mapping[str, int] | None = field(default=None, hash=False)
    unknown: Mapping[str, str] = field(default_factory=dict, hash=False)


class HealthListing(Record):
    """The GPUs that NVML counts. ``reason``: why there are none; ``error``: NVML's number of it (nvmlReturn_t),
    ``None`` if there is no library to ask.

    ``hang``: the call that did not return; what was to be read after it is unknown.
    """

    gpus: tuple[GpuHealth, ...] = ()
    reason: str | None = None
    error: int | None = None
    hang: str | None = None


def read_health() -> HealthListing:
    """Read how every GPU is. Where NVML cannot be used, the listing says why."""
    try:
        with nvml_calls.session() as reader:
            count, reason = reader.ask(reader.nvml.nvmlDeviceGetCount)
            if count is None:
                return HealthListing(reason=f"the GPUs cannot be counted: {reason}", hang=nvml_calls.hung_call())
            gpus = tuple(_read_gpu(reader, index) for index in range(count))
    except NvmlUnavailable as error:
        number = None if nvml_errors.library_is_missing() else getattr(error.__cause__, "value", None)
        return HealthListing(reason=str(error), error=number, hang=nvml_calls.hung_call())
    return HealthListing(gpus, hang=nvml_calls.hung_call())


def _read_gpu(reader: nvml_calls.Reader, index: int) -> GpuHealth:
    nvml = reader.nvml
    handle, reason = reader.ask(nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return GpuHealth(index, unknown={"handle": reason})
    unknown: dict[str, str] = {}

    def read(names: str | tuple[str, ...], function: Any, *args: Any) -> Any:
        value, why = reader.ask(function, handle, *args)
        if value is None:
            unknown.update(dict.fromkeys((names,) if isinstance(names, str) else names, why))
        return value

    known, missing = read_fields(reader, handle, [*_NUMBERS, *THROTTLE_COUNTERS])
    unknown |= {_NUMBERS[number]: why for number, why in missing.items() if number in _NUMBERS}
    throttled = {name: known[number] for number, name in THROTTLE_COUNTERS.items() if number in known}
    if not throttled:
        unknown["throttled_ns"] = missing[next(iter(THROTTLE_COUNTERS))]
    persistence = read("persistence_mode", nvml.nvmlDeviceGetPersistenceMode)
    mig = read(("mig_enabled", "mig_pending"), nvml.nvmlDeviceGetMigMode) or (None, None)
    ecc = read(("ecc_enabled", "ecc_pending"), nvml.nvmlDeviceGetEccMode) or (None, None)
    clock_mask = read("clock_reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons)
    return GpuHealth(
        index=index,
        uuid=read("uuid", nvml.nvmlDeviceGetUUID),
        persistence_mode=_flag(persistence),
        mig_enabled=_flag(mig[0]),
        mig_pending=_flag(mig[1]),
        ecc_enabled=_flag(ecc[0]),
        ecc_pending=_flag(ecc[1]),
        pcie_width=read("pcie_width", nvml.nvmlDeviceGetCurrPcieLinkWidth),
        pcie_max_width=read("pcie_max_width", nvml.nvmlDeviceGetMaxPcieLinkWidth),
        pcie_generation=read("pcie_generation", nvml.nvmlDeviceGetCurrPcieLinkGeneration),
        pcie_max_generation=read("pcie_max_generation", nvml.nvmlDeviceGetMaxPcieLinkGeneration),
        clock_reasons=None if clock_mask is None else clock_reasons(int(clock_mask)),
        throttled_ns=throttled or None,
        unknown=unknown,
        **{_NUMBERS[number]: value for number, value in known.items() if number in _NUMBERS},
    )


def _flag(mode: int | None) -> bool | None:
    return None if mode is None else bool(mode)
