"""Reads the GPUs of a run again and again, at little cost: what they hold, do, draw and pass over PCIe.

What a GPU or its driver does not support is not asked for again. All readings of all GPUs are one job of NVML's thread,
and those of a GPU that NVML offers as "fields" are one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuexec.hardware import nvml_errors
from gpuexec.hardware.clock_reasons import THROTTLE_COUNTERS, clock_reasons
from gpuexec.hardware.field_values import value_of
from gpuexec.hardware.host import in_initial_pid_namespace
from gpuexec.hardware.nvml import OpenGpu, open_gpus
from gpuexec.hardware.nvml_calls import Reader
from gpuexec.records import Record

# NVML_FI_DEV_*
_ENERGY_MJ = 83
_POWER_AVERAGE_MW = 185
_PCIE_TX_BYTES = 197
_PCIE_RX_BYTES = 198
_FIELDS = (_ENERGY_MJ, _POWER_AVERAGE_MW, _PCIE_TX_BYTES, _PCIE_RX_BYTES, *THROTTLE_COUNTERS)
_64_BITS = {2, 3}  # a counter of 32 bits of bytes goes round several times a second
_PCIE_CALLS_S = 0.04  # nvml.h: a call counts for 20 ms, and there is one for each direction
_EACH_GPU_S = 0.25  # that the calls for one more GPU may take, before they count as hanging
_PCIE = ("pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s")

OTHER_NAMESPACE = "NVML's pids are of another pid namespace than ours, as in a container"
DIVIDED = "the GPU is divided by MIG and lists no processes as a whole"
IN_TURN = "read of one GPU after the other, since the driver takes 40 ms for it"
FIRST_READING = "a rate needs a second reading of its counter"
COUNTER_WENT_BACK = "the counter was reset or has gone round"
NOT_COUNTED = "not counted by this GPU or driver version"


class GpuSample(Record):
    """One physical GPU at one moment. ``None``: not readable; ``unknown`` has the reason under the field's name.

    ``at``: of the monotonic clock. ``sm_util_percent``: part of the last moments (1/6 to 1 s, as the GPU's model has
    it) in which a kernel ran; ``memory_util_percent``: in which its memory was read or written. ``power_w``: mean over
    1 s where the driver offers that. ``energy_mj``: a counter, since the driver was loaded. ``clock_reasons``: what
    limits the clocks at this moment. ``throttled_ns``: counters, for how long the clocks have been limited so far, by
    reason. ``pcie_rx_bytes_per_s``: to the GPU; ``pcie_tx_bytes_per_s``: from it. ``processes``: pid and bytes
    (``None``: NVML does not say) of each compute process. ``sources``: where each reading comes from. ``devices``: what
    the run uses of it, its own UUID or those of MIG slices.
    """

    at: float
    index: int
    uuid: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_util_percent: int | None = None
    memory_util_percent: int | None = None
    power_w: float | None = None
    energy_mj: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    clock_reasons: tuple[str, ...] | None = None
    throttled_ns: tuple[tuple[str, int], ...] | None = None
    pcie_rx_bytes_per_s: float | None = None
    pcie_tx_bytes_per_s: float | None = None
    processes: tuple[tuple[int, int | None], ...] | None = None
    unknown: Mapping[str, str] = {}
    sources: Mapping[str, str] = {}
    devices: tuple[str, ...] = ()


class GpuTelemetry:
    """Reads the physical GPUs that the given devices (GPUs or MIG slices) are on. Raises ``NvmlHangs``.

    ``missing``: why a device was not found, by UUID.
    """

    def __init__(self, reader: Reader, uuids: Sequence[str]) -> None:
        opened, self.missing = open_gpus(reader, uuids)
        names_pids = in_initial_pid_namespace()
        self._reader = reader
        self._gpus = [_Gpu(reader, gpu, names_pids=names_pids) for gpu in opened]
        self._reads = 0

    def read(self) -> tuple[GpuSample, ...]:
        """Read every GPU. Raises ``NvmlHangs`` if a call does not return in time."""
        turn = self._reads % max(1, len(self._gpus))
        self._reads += 1
        due = [gpu.questions(its_turn=number == turn) for number, gpu in enumerate(self._gpus)]
        calls = [(question.function, question.args) for questions in due for question in questions]
        at = time.monotonic()
        answers = iter(self._reader.ask_all(calls, blocks_s=_PCIE_CALLS_S + _EACH_GPU_S * (len(due) - 1)))
        return tuple(
            gpu.sample(at, [(question, *next(answers)) for question in questions])
            for gpu, questions in zip(self._gpus, due, strict=True)
        )


class _Unknown(str):
    """The reason why a reading is unknown."""

    __slots__ = ()


class _Question(Record):
    """A call, and the fields of ``GpuSample`` that ``decode`` makes of its value. ``is_slow``: it takes 20 ms."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    fields: tuple[str, ...]
    decode: Callable[[Any], Mapping[str, Any]]
    is_slow: bool = False


class _Gpu:
    """One GPU, and how it is best asked."""

    def __init__(self, reader: Reader, opened: OpenGpu, *, names_pids: bool) -> None:
        self._reader, self._nvml = reader, reader.nvml
        self._index, self._uuid, self._handle = opened.index, opened.uuid, opened.handle
        self._devices = tuple(opened.devices)
        self._unknown: dict[str, str] = {}  # for good
        self._sources: dict[str, str] = {}
        self._questions: list[_Question] = []
        self._read_at = 0.0
        self._pcie: dict[str, tuple[float, int]] = {}  # time and counter when last read
        self._ask_usual_calls()
        self._ask_fields()
        if any(instance is not None for instance in opened.devices.values()):
            self._unknown["processes"] = DIVIDED
        elif not names_pids:
            self._unknown["processes"] = OTHER_NAMESPACE
        else:
            self._add(self._nvml.nvmlDeviceGetComputeRunningProcesses, (), ("processes",), _processes)

    def questions(self, *, its_turn: bool) -> list[_Question]:
        """Return what to ask; ``its_turn``: with the calls that take long."""
        return [question for question in self._questions if its_turn or not question.is_slow]

    def sample(self, at: float, answers: Sequence[tuple[_Question, Any, str]]) -> GpuSample:
        """Make a sample of the answers, each a value or the reason why there is none."""
        self._read_at = at
        readings: dict[str, Any] = {}
        unknown = self._unknown.copy()
        if len(answers) < len(self._questions):
            unknown |= dict.fromkeys(_PCIE, IN_TURN)
        for question, value, reason in answers:
            found = dict.fromkeys(question.fields, _Unknown(reason)) if value is None else question.decode(value)
            for name, reading in found.items():
                (unknown if isinstance(reading, _Unknown) else readings)[name] = reading
            if reason == nvml_errors.NOT_SUPPORTED:  # that does not change
                self._unknown |= dict.fromkeys(question.fields, reason)
                self._questions.remove(question)
        return GpuSample(
            at=at,
            index=self._index,
            uuid=self._uuid,
            unknown=unknown,
            sources=self._sources,
            devices=self._devices,
            **readings,
        )

    def _add(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        fields: tuple[str, ...],
        decode: Callable[[Any], Mapping[str, Any]],
        *,
        is_slow: bool = False,
    ) -> None:
        self._questions.append(_Question(function, (self._handle, *args), fields, decode, is_slow))
        self._sources |= dict.fromkeys(fields, function.__name__)

    def _ask_usual_calls(self) -> None:
        nvml = self._nvml
        memory_args: tuple[Any, ...] = (nvml.nvmlMemory_v2,)
        if self._reader.ask(nvml.nvmlDeviceGetMemoryInfo, self._handle, *memory_args)[0] is None:
            memory_args = ()  # an older driver; the older call counts the driver's reserve as used
        self._add(nvml.nvmlDeviceGetMemoryInfo, memory_args, ("memory_used_bytes", "memory_total_bytes"), _memory)
        utilization = ("sm_util_percent", "memory_util_percent")
        self._add(nvml.nvmlDeviceGetUtilizationRates, (), utilization, _utilization)
        self._add_number(nvml.nvmlDeviceGetTemperature, (nvml.NVML_TEMPERATURE_GPU,), "temperature_c")
        self._add_number(nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_SM,), "sm_clock_mhz")
        self._add_number(nvml.nvmlDeviceGetClockInfo, (nvml.NVML_CLOCK_MEM,), "memory_clock_mhz")
        self._add(nvml.nvmlDeviceGetCurrentClocksEventReasons, (), ("clock_reasons",), _clock_reasons)

    def _add_number(self, function: Callable[..., Any], args: tuple[Any, ...], field: str) -> None:
        self._add(function, args, (field,), lambda value: {field: int(value)})

    def _ask_fields(self) -> None:
        """Find out which of NVML's fields the GPU has, and replace others by calls, where there are any."""
        nvml = self._nvml
        values = self._reader.ask(nvml.nvmlDeviceGetFieldValues, self._handle, list(_FIELDS))[0]
        types = {int(v.fieldId): int(v.valueType) for v in values or () if v.nvmlReturn == nvml.NVML_SUCCESS}
        if not types.keys() & THROTTLE_COUNTERS.keys():
            self._unknown["throttled_ns"] = NOT_COUNTED
        if _ENERGY_MJ not in types:
            self._add_number(nvml.nvmlDeviceGetTotalEnergyConsumption, (), "energy_mj")
        if _POWER_AVERAGE_MW not in types:
            self._add(nvml.nvmlDeviceGetPowerUsage, (), ("power_w",), lambda value: {"power_w": int(value) / 1000})
        if not {types.get(_PCIE_TX_BYTES), types.get(_PCIE_RX_BYTES)} <= _64_BITS:
            types = {number: kind for number, kind in types.items() if number not in {_PCIE_TX_BYTES, _PCIE_RX_BYTES}}
            for name, counter in zip(_PCIE, (nvml.NVML_PCIE_UTIL_RX_BYTES, nvml.NVML_PCIE_UTIL_TX_BYTES), strict=True):
                self._add(nvml.nvmlDeviceGetPcieThroughput, (counter,), (name,), _rate(name), is_slow=True)
        if types:
            self._add(nvml.nvmlDeviceGetFieldValues, (list(types),), _names_of(types), self._fields)
            self._sources |= _sources_of(types)

    def _fields(self, values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        throttled = []
        for one in values:
            number = int(one.fieldId)
            if one.nvmlReturn != self._nvml.NVML_SUCCESS:
                reason = _Unknown(nvml_errors.reason(self._nvml.NVMLError(one.nvmlReturn)))
                found |= dict.fromkeys(_names_of([number]), reason)
                continue
            value = value_of(one)
            if number in THROTTLE_COUNTERS:
                throttled.append((THROTTLE_COUNTERS[number], int(value)))
            elif number == _ENERGY_MJ:
                found["energy_mj"] = int(value)
            elif number == _POWER_AVERAGE_MW:
                found["power_w"] = value / 1000
            else:
                (name,) = _names_of([number])
                found[name] = self._pcie_rate(name, int(value))
        if throttled:
            found["throttled_ns"] = tuple(throttled)
        return found

    def _pcie_rate(self, name: str, counter: int) -> float | _Unknown:
        before_at, before = self._pcie.get(name, (0.0, 0))
        is_first = name not in self._pcie
        self._pcie[name] = (self._read_at, counter)
        if is_first or self._read_at <= before_at:
            return _Unknown(FIRST_READING)
        if counter < before:
            return _Unknown(COUNTER_WENT_BACK)
        return (counter - before) / (self._read_at - before_at)


def _names_of(fields: Sequence[int] | Mapping[int, int]) -> tuple[str, ...]:
    """Return the fields of ``GpuSample`` that are made of these fields of NVML, each once."""
    named = {_ENERGY_MJ: "energy_mj", _POWER_AVERAGE_MW: "power_w", _PCIE_RX_BYTES: _PCIE[0], _PCIE_TX_BYTES: _PCIE[1]}
    return tuple(dict.fromkeys(named.get(field, "throttled_ns") for field in fields))


def _sources_of(fields: Mapping[int, int]) -> dict[str, str]:
    sources = {}
    for name in _names_of(fields):
        numbers = [str(field) for field in fields if _names_of([field]) == (name,)]
        sources[name] = f"nvmlDeviceGetFieldValues, {', '.join(numbers)}"
    return sources


def _memory(value: Any) -> dict[str, Any]:
    return {"memory_used_bytes": int(value.used), "memory_total_bytes": int(value.total)}


def _utilization(value: Any) -> dict[str, Any]:
    return {"sm_util_percent": int(value.gpu), "memory_util_percent": int(value.memory)}


def _clock_reasons(value: Any) -> dict[str, Any]:
    return {"clock_reasons": clock_reasons(int(value))}


def _processes(value: Any) -> dict[str, Any]:
    return {"processes": tuple((int(one.pid), one.usedGpuMemory) for one in value)}


def _rate(name: str) -> Callable[[Any], dict[str, Any]]:
    """Return the decoder of a rate that NVML returns in KB/s."""
    return lambda value: {name: int(value) * 1000.0}
