"""Whose share of the energy of a run's GPUs was what: by stage and by worker, over the time that each was busy.

Of every GPU, the shares of the stages and what it used at idle power add up to what its counter says. The shares of a
stage's workers add up to that of the stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gpuexec.records import Record
from gpuexec.report.energy import Attribution, EnergyKind, EnergyMeter, attribute, idle_power
from gpuexec.report.timeline import BIN_S
from gpuexec.series import AmountSeries, common_width

MOST_WORKERS = 256  # so that a run whose workers are replaced again and again stays bounded

_ByDevice = dict[str, AmountSeries]


class GpuMeter:
    """What one GPU used, over time.

    ``devices``: of the run, the GPU itself or MIG slices. ``bin_s``: no less than the time of two samples, since nobody
    knows when between two of them the joules were used.
    """

    def __init__(self, index: int, uuid: str, devices: Sequence[str], start: float, bin_s: float) -> None:
        self.index = index
        self.uuid = uuid
        self.devices = devices
        self.bin_s = bin_s
        self.total = EnergyMeter()
        self.joules = AmountSeries(start, BIN_S)
        self.metered_s = AmountSeries(start, BIN_S)  # how much of each bin the joules cover

    def add(self, at: float, millijoules: int | None, reason: str | None) -> None:
        """Add a reading of the GPU's counter, or why there is none."""
        used = self.total.add(at, millijoules, reason)
        if used is not None:
            since, joules = used
            self.joules.spread(since, at, joules)
            self.metered_s.spread(since, at, at - since)


class BusyTime:
    """The seconds that stages and workers were busy on each device, over time; of workers, those of the first 256.

    ``start``: of the run, by the monotonic clock.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self.stages: dict[int, _ByDevice] = {}
        self.workers: dict[str, _ByDevice] = {}

    def account(
        self, stage_index: int, worker_id: str, devices: Iterable[str], began: float, ended: float, busy_s: float
    ) -> None:
        """Add for how long a worker of a stage was busy on its devices."""
        owners = [self.stages.setdefault(stage_index, {})]
        if worker_id in self.workers or len(self.workers) < MOST_WORKERS:
            owners.append(self.workers.setdefault(worker_id, {}))
        for device in devices:
            for owner in owners:
                if device not in owner:
                    owner[device] = AmountSeries(self._start, BIN_S)
                owner[device].spread(began, ended, busy_s)


class RunEnergy(Record):
    """The energy of a run, for a report: of GPUs by UUID, of stages by index, of workers by id."""

    gpus: dict[str, dict[str, Any]]
    stages: dict[int, dict[str, Any]]
    workers: dict[str, dict[str, Any]]


def divided(gpus: Sequence[GpuMeter], busy: BusyTime, why_unknown: str) -> RunEnergy:
    """Divide what GPUs used among those that were busy on them. ``why_unknown``: why others were not sampled."""
    parts = [_divided(gpu, busy.stages.values()) for gpu in gpus]
    return RunEnergy(
        {part.gpu.uuid: part.figures for part in parts},
        {stage: _share(by_device, parts, why_unknown) for stage, by_device in busy.stages.items()},
        {worker: _share(by_device, parts, why_unknown) for worker, by_device in busy.workers.items()},
    )


class _Divided(Record):
    """One GPU's joules, divided in bins of ``width`` seconds. ``figures``: of the GPU itself, for a report."""

    gpu: GpuMeter
    width: float
    attribution: Attribution | None
    figures: dict[str, Any]
    doubts: tuple[str, ...]


def _divided(gpu: GpuMeter, owners: Iterable[_ByDevice]) -> _Divided:
    """Divide the joules of a GPU. ``owners``: all that were busy, each with its devices."""
    busy = [owner[device] for owner in owners for device in gpu.devices if device in owner]
    width = common_width([gpu.joules, gpu.metered_s, *busy])
    while width < gpu.bin_s:
        width *= 2
    all_busy = AmountSeries(gpu.joules.start, BIN_S)
    for series in busy:
        all_busy.merge(series)
    joules, metered_s, busy_s = (one.at_width(width).amounts() for one in (gpu.joules, gpu.metered_s, all_busy))
    used, idle = gpu.total.result(), idle_power(joules, metered_s, busy_s)
    attribution = None if used.joules is None else attribute(joules, metered_s, busy_s, idle)
    figures = {
        "joules": used.joules,
        "seconds": used.seconds,
        "kind": None if used.kind is None else str(used.kind),
        "reason": used.reason,
        "idle_watts": idle.watts,
        "idle_reason": idle.reason,
        "idle_joules": None if attribution is None else attribution.idle_joules,
    }
    short = f"its counter was read for {used.seconds:.1f} s only" if used.kind is EnergyKind.SHORT else None
    doubts = (used.reason, None if attribution is None else attribution.reason, short)
    return _Divided(gpu, width, attribution, figures, tuple(doubt for doubt in doubts if doubt is not None))


def _share(by_device: _ByDevice, parts: Sequence[_Divided], why_unknown: str) -> dict[str, Any]:
    """Return somebody's share of all GPUs, and what makes it unknown or less exact."""
    joules: float | None = None
    reasons: dict[str, None] = {}  # each once
    sampled = {device: part for part in parts for device in part.gpu.devices}
    for device, busy in by_device.items():
        part = sampled.get(device)
        if part is None:
            reasons[f"{device}: {why_unknown}"] = None
            continue
        if part.attribution is not None:
            joules = (joules or 0.0) + part.attribution.share(busy.at_width(part.width).amounts())
        reasons.update(dict.fromkeys(f"GPU {part.gpu.index}: {doubt}" for doubt in part.doubts))
    return {"joules": joules, "kind": str(EnergyKind.ATTRIBUTED), "reason": "; ".join(reasons) or None}
