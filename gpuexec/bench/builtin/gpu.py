"""Figures of GPUs: copies, products of matrices, decoding, and what they draw at rest and under load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil

from gpuexec.bench.builtin.gpu_stage import MeasureGpus
from gpuexec.bench.builtin.machine import conditions
from gpuexec.bench.builtin.model import Figure
from gpuexec.bench.builtin.runs import executor, pieces
from gpuexec.errors import GpuexecError, NvmlUnavailable
from gpuexec.events import NodeSampled, RunEvent
from gpuexec.executors.run_plan import plan
from gpuexec.hardware import nvml_calls
from gpuexec.hardware.provenance import GpuState, contamination, read_provenance
from gpuexec.hardware.telemetry import GpuSample, GpuTelemetry
from gpuexec.report.figures import HIGHER, LOWER

_SAMPLE_S = 0.25
_SETTLING_S = 1.0  # NVML's power is the mean of a second
_IDLE_SAMPLES = 8
_NAMES = {
    "to_device": ("copied from the host", "GB/s"),
    "from_device": ("copied to the host", "GB/s"),
    "product_float32": ("product of matrices, float32", "TFLOP/s"),
    "product_float16": ("product of matrices, float16", "TFLOP/s"),
    "decode": ("JPEGs of 1920 × 1080 decoded", "images/s"),
    "between": ("copied to GPU {other}", "GB/s"),
}
_EVERY = ("idle_watts", *_NAMES, "loaded_watts")
_WATTS = {"idle_watts": "power at rest", "loaded_watts": "power while it multiplies float16 matrices"}


class _PowerSamples:
    """Collects what is sampled of the GPUs during a run."""

    def __init__(self) -> None:
        self.samples: list[GpuSample] = []

    def on_event(self, event: RunEvent, /) -> None:
        if isinstance(event, NodeSampled):
            self.samples += event.gpus


def gpu_figures(machine: Mapping[str, Any], repeats: int, *, load_s: float) -> Iterator[Figure]:
    """Measure the GPUs that a run could have. Where there is none, or no library, one figure says why."""
    if not machine["gpus"]:
        yield _without_gpus(str(machine["no_gpus_reason"]))
        return
    try:
        count = _plannable()
        uuids = [str(gpu["uuid"]) for gpu in machine["gpus"]]
        before = read_provenance(uuids)
        idle = idle_power(uuids)
        watcher = _PowerSamples()
        run = executor(observers=(watcher,), sample_interval_s=_SAMPLE_S, start_method="spawn")
        (task,) = run.execute([MeasureGpus(count, repeats, load_s)], pieces([None]))
        after = read_provenance(uuids)
    except GpuexecError as error:
        yield _without_gpus(str(error).splitlines()[0])
        return
    found: Mapping[str, Any] = task.data
    doubts = tuple(contamination(before, after, _own_pids(run)))
    states = {state.index: state for state in before.gpus}
    facts = _Facts(machine, found, states, doubts)
    yield from _idle_figures(idle, facts)
    if found["reason"]:
        yield _without_library(found["reason"], facts)
        return
    yield from (facts.figure_of(reading) for reading in found["readings"])
    yield from _loaded_figures(watcher.samples, found["loaded"], facts)


class _Facts:
    """What the figures of one run have in common."""

    def __init__(
        self,
        machine: Mapping[str, Any],
        found: Mapping[str, Any],
        states: Mapping[int, GpuState],
        doubts: tuple[str, ...],
    ) -> None:
        self.indices: Sequence[int] = found["indices"]
        self._machine, self._found, self._states = machine, found, states
        self._doubts = doubts
        self._names = {gpu["index"]: gpu["name"] for gpu in machine["gpus"]}

    def figure_of(self, reading: Mapping[str, Any]) -> Figure:
        name, unit = _NAMES[reading["key"]]
        index = self.indices[reading["device"]]
        if "other" in reading:
            name = name.format(other=self.indices[reading["other"]])
        values = tuple(reading["values"])
        return self.figure(index, reading["key"], name, unit, HIGHER, values, reading["reason"])

    def figure(
        self,
        index: int,
        key: str,
        name: str,
        unit: str,
        better: str,
        values: tuple[float, ...],
        reason: str | None = None,
    ) -> Figure:
        state = self._states.get(index)
        limit = None if state is None else state.power_limit_mw
        depends_on = {
            "gpu": self._names.get(index),
            "power_limit_w": None if limit is None else limit / 1000,
            **conditions(self._machine, "driver", "kernel"),
            **({} if key in _WATTS else {"library": self._found["library"]}),
        }
        doubts = tuple(doubt for doubt in self._doubts if doubt.startswith((f"GPU {index} ", f"GPU {index}:")))
        if not values and reason is None:
            reason = "no reading arrived"
        return Figure(f"gpu{index}.{key}", name, unit, better, values, reason, depends_on, doubts)


def idle_power(uuids: Sequence[str], sleep: Callable[[float], None] = time.sleep) -> dict[int, list[float] | str]:
    """Return what each GPU draws now, in watts, by its index; a text says why it is unknown."""
    readings: dict[int, list[float]] = {}
    reasons: dict[int, str] = {}
    try:
        with nvml_calls.session() as reader:
            telemetry = GpuTelemetry(reader, uuids)
            for _ in range(_IDLE_SAMPLES):
                for sample in telemetry.read():
                    if sample.power_w is not None:
                        readings.setdefault(sample.index, []).append(sample.power_w)
                    else:
                        reasons[sample.index] = sample.unknown.get("power_w", "no reading arrived")
                sleep(_SAMPLE_S)
    except NvmlUnavailable as error:
        reasons.setdefault(-1, str(error))
    return {**reasons, **readings}


def _idle_figures(idle: Mapping[int, list[float] | str], facts: _Facts) -> Iterator[Figure]:
    for index in facts.indices:
        found = idle.get(index, idle.get(-1, "no reading arrived"))
        values, reason = ((), found) if isinstance(found, str) else (tuple(found), None)
        yield facts.figure(index, "idle_watts", _WATTS["idle_watts"], "W", LOWER, values, reason)


def _loaded_figures(samples: Sequence[GpuSample], loaded: tuple[float, float], facts: _Facts) -> Iterator[Figure]:
    """Yield what each GPU drew while all were busy. More is not better, nor worse: with more products it is more."""
    began, ended = loaded
    for index in facts.indices:
        own = [each for each in samples if each.index == index and began + _SETTLING_S <= each.at <= ended]
        values = tuple(each.power_w for each in own if each.power_w is not None)
        reason = next((each.unknown["power_w"] for each in own if "power_w" in each.unknown), None)
        yield facts.figure(index, "loaded_watts", _WATTS["loaded_watts"], "W", LOWER, values, reason)


def _plannable() -> int:
    """Return how many whole GPUs a run could have now, at least one. Raises ``ResourcesError`` if there is none."""
    one = MeasureGpus(1, 1, 0.0).with_(num_workers=None)
    grants = [grant for phase in plan([one]).plan.phases for stage in phase.stages for grant in stage.workers]
    shares = [share for grant in grants for share in grant.allocation.gpus]
    return max(1, sum(not share.uuid.startswith("MIG-") for share in shares))


def _own_pids(run: Any) -> set[int]:
    workers = {worker.pid for worker in run.last_report.workers} if run.last_report is not None else set()
    return {os.getpid(), *workers, *(child.pid for child in psutil.Process().children(recursive=True))}


def _without_gpus(reason: str) -> Figure:
    return Figure("gpu.all", "copies, products of matrices, decoding and power of GPUs", "", HIGHER, reason=reason)


def _without_library(reason: str, facts: _Facts) -> Figure:
    indices = ", ".join(map(str, facts.indices))
    name = f"copies, products of matrices, decoding and loaded power of GPU {indices}"
    return Figure("gpu.all", name, "", HIGHER, reason=reason)
