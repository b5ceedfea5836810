"""What was sampled of the node during a run, as time series of bounded size, and the energy of its GPUs.

Built from ``NodeSampled`` and ``SeriesStopped``. Every series says its source, and why it has gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec import events
from gpuexec.hardware.clock_reasons import SLOWDOWNS
from gpuexec.hardware.process_readings import ENDED, SOURCE, ProcessSample
from gpuexec.hardware.telemetry import FIRST_READING, GpuSample
from gpuexec.report.energy_shares import BusyTime, GpuMeter, RunEnergy, divided
from gpuexec.series import SampleSeries

MAX_PROCESSES = 256  # the newest ones, so that a run whose workers are replaced again and again stays bounded
_PROCESS_BINS = 128
_INTERVALS_PER_BIN = 2  # so that a bin without a sample is a gap

# Name and unit of a series, and the field of a GpuSample that it is of.
_GPU_FIELDS = (
    ("memory_used", "bytes", "memory_used_bytes"),
    ("sm_util", "%", "sm_util_percent"),
    ("memory_util", "%", "memory_util_percent"),
    ("power", "W", "power_w"),
    ("temperature", "°C", "temperature_c"),
    ("sm_clock", "MHz", "sm_clock_mhz"),
    ("memory_clock", "MHz", "memory_clock_mhz"),
    ("pcie_rx", "bytes/s", "pcie_rx_bytes_per_s"),
    ("pcie_tx", "bytes/s", "pcie_tx_bytes_per_s"),
)


class NamedSeries:
    """One series with its name, unit and source, and why readings are missing."""

    def __init__(self, name: str, unit: str, series: SampleSeries) -> None:
        self.name = name
        self.unit = unit
        self.source = ""
        self._series = series
        self._samples = self._missing = 0
        self._reason = ""
        self._stopped: str | None = None

    def add(self, at: float, value: float | None, source: str, reason: str = "") -> None:
        """Add a reading, or why there is none."""
        self.source = source or self.source
        if value is not None:
            self._series.add(at, value)
        elif reason in {FIRST_READING, ENDED}:  # there is nothing to be missed
            return
        else:
            self._missing += 1
            self._reason = reason
        self._samples += 1

    def stop(self, reason: str) -> None:
        """Note why there are no more readings."""
        self._stopped = self._stopped or reason

    @property
    def reason(self) -> str | None:
        """Why the series is empty or has gaps, ``None`` if it has none."""
        reasons = [self._stopped] if self._stopped else []
        if self._missing and self._missing == self._samples:
            reasons.append(self._reason)
        elif self._missing:
            reasons.append(f"{self._missing} of {self._samples} samples are missing: {self._reason}")
        elif not self._samples and not reasons:
            reasons.append("there was no sample of it")
        return "; ".join(reasons) or None

    def to_dict(self) -> dict[str, Any]:
        """Return the series for a report: mean and maximum of each bin, ``None`` for a gap."""
        bins = self._series.bins()
        return {
            "name": self.name,
            "unit": self.unit,
            "source": self.source or None,
            "reason": self.reason,
            "bin_s": self._series.bin_s,
            "mean": [None if one is None else _short(one.mean) for one in bins],
            "max": [None if one is None else _short(one.max) for one in bins],
        }


class GpuSeries:
    """The series of one GPU, and its energy."""

    def __init__(self, index: int, uuid: str, devices: Sequence[str], start: float, bin_s: float) -> None:
        self.index = index
        self.uuid = uuid
        self.meter = GpuMeter(index, uuid, devices, start, bin_s)
        self.memory_bytes: int | None = None
        names = [(name, unit) for name, unit, _ in _GPU_FIELDS]
        self._series = {
            name: NamedSeries(name, unit, SampleSeries(start, bin_s))
            for name, unit in [*names, ("throttle", "fraction")]
        }
        self._throttled: tuple[float, Mapping[str, int]] | None = None

    def add(self, sample: GpuSample) -> None:
        """Add a sample."""
        for name, _, field in _GPU_FIELDS:
            reason = sample.unknown.get(field, "")
            self._series[name].add(sample.at, getattr(sample, field), sample.sources.get(field, ""), reason)
        self._add_throttling(sample)
        self.memory_bytes = sample.memory_total_bytes or self.memory_bytes
        self.meter.add(sample.at, sample.energy_mj, sample.unknown.get("energy_mj"))

    def stop(self, reason: str) -> None:
        """Note why there are no more samples."""
        for series in self._series.values():
            series.stop(reason)

    def _add_throttling(self, sample: GpuSample) -> None:
        """Add which part of the time since the last sample the clocks were lowered; from counters if there are any.

        Counters may overlap, so the one that grew most counts.
        """
        series = self._series["throttle"]
        if sample.throttled_ns is not None:
            counters = {reason: ns for reason, ns in sample.throttled_ns if reason in SLOWDOWNS}
            before, self._throttled = self._throttled, (sample.at, counters)
            source = sample.sources.get("throttled_ns", "")
            if before is None or sample.at <= before[0]:
                series.add(sample.at, None, source, FIRST_READING)
                return
            grown_ns = max((max(0, ns - before[1].get(reason, ns)) for reason, ns in counters.items()), default=0)
            series.add(sample.at, min(1.0, grown_ns / 1e9 / (sample.at - before[0])), source)
        elif sample.clock_reasons is not None:
            is_slowed = any(reason in SLOWDOWNS for reason in sample.clock_reasons)
            series.add(sample.at, float(is_slowed), sample.sources.get("clock_reasons", ""))
        else:
            series.add(sample.at, None, "", sample.unknown.get("clock_reasons", ""))

    def to_dict(self) -> dict[str, Any]:
        """Return the series for a report."""
        return {
            "index": self.index,
            "uuid": self.uuid,
            "memory_bytes": self.memory_bytes,
            "series": [series.to_dict() for series in self._series.values()],
        }


class ProcessSeries:
    """The series of one process."""

    def __init__(self, worker_id: str, pid: int, start: float, bin_s: float) -> None:
        self.worker_id = worker_id
        self.pid = pid
        self._cpu: tuple[float, float] | None = None

        def series(name: str, unit: str) -> NamedSeries:
            return NamedSeries(name, unit, SampleSeries(start, bin_s, _PROCESS_BINS))

        self._rss, self._cores = series("rss", "bytes"), series("cpu", "cores")
        self._gpu_memory = series("gpu_memory", "bytes")

    def add(self, at: float, sample: ProcessSample) -> None:
        """Add a sample."""
        self._rss.add(at, sample.rss_bytes, SOURCE, sample.unknown.get("rss_bytes", ""))
        before, now = self._cpu, None if sample.cpu_s is None else (at, sample.cpu_s)
        self._cpu = now or before
        if now is not None and before is not None and at > before[0]:
            self._cores.add(at, max(0.0, now[1] - before[1]) / (at - before[0]), SOURCE)
        else:
            self._cores.add(at, None, SOURCE, sample.unknown.get("cpu_s", FIRST_READING))
        held, source = sample.gpu_memory_bytes, "nvmlDeviceGetComputeRunningProcesses"
        bytes_held = None if held is None else sum(size for _, size in held)
        self._gpu_memory.add(at, bytes_held, source, sample.unknown.get("gpu_memory_bytes", ""))

    def to_dict(self, *, uses_gpus: bool) -> dict[str, Any]:
        """Return the series for a report, that of GPU memory only if the run uses GPUs."""
        series = [self._rss, self._cores, *([self._gpu_memory] if uses_gpus else [])]
        return {"worker": self.worker_id, "pid": self.pid, "series": [one.to_dict() for one in series]}


class NodeSeries:
    """All series of a run. ``start``: of the run, by the monotonic clock."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.busy = BusyTime(start)
        self.gpus: dict[str, GpuSeries] = {}  # by UUID
        self.processes: dict[tuple[str, int], ProcessSeries] = {}  # by worker id and pid, the oldest first
        self.stopped: dict[str, str] = {}  # by source, with the second of the run

    def add(self, event: events.NodeSampled) -> None:
        """Add a sample."""
        bin_s = _INTERVALS_PER_BIN * event.interval_s
        for gpu in event.gpus:
            if gpu.uuid not in self.gpus:
                self.gpus[gpu.uuid] = GpuSeries(gpu.index, gpu.uuid, gpu.devices, self._start, bin_s)
            self.gpus[gpu.uuid].add(gpu)
        for process in event.processes:
            key = (process.worker_id, process.pid)
            if key not in self.processes:
                self.processes[key] = ProcessSeries(*key, self._start, bin_s)
                if len(self.processes) > MAX_PROCESSES:
                    del self.processes[self._oldest()]
            self.processes[key].add(event.at, process)

    def processes_as_dicts(self) -> list[dict[str, Any]]:
        """Return the series of the processes for a report."""
        uses_gpus = bool(self.gpus or self.stopped)
        return [process.to_dict(uses_gpus=uses_gpus) for process in self.processes.values()]

    def energy(self) -> RunEnergy:
        """Return what the GPUs used, and whose share of it was what."""
        why = "; ".join(self.stopped.values()) or "no sample was taken"
        return divided([gpu.meter for gpu in self.gpus.values()], self.busy, why)

    def stop(self, event: events.SeriesStopped) -> None:
        """Note that a source has stopped."""
        reason = f"stopped {event.at - self._start:.1f} s after the start: {event.reason}"
        self.stopped[event.source] = reason
        for gpu in self.gpus.values():
            if event.source in {gpu.uuid, "nvml", "sampler"}:
                gpu.stop(reason)

    def _oldest(self) -> tuple[str, int]:
        """Return the first worker; the driver's own series, the very first, stays."""
        keys = iter(self.processes)
        next(keys)
        return next(keys)


def _short(value: float) -> float:
    """Return a number with six significant digits, as a whole number where it is one: reports stay small."""
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() else short
