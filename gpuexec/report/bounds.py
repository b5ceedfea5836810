"""What the figures of a report say about the limits of a run: how long each stage alone would have taken, and why.

Everything here is pure, and takes a report as ``RunReport.to_dict`` makes it. Missing figures count as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

Data = Mapping[str, Any]

# A worker is held up by itself, or by the stages beside it. The first kind makes a stage the one that limits a run.
WORK = ("busy", "transfer")
FAULTS = ("lost", "retry_delay")
BY_NEIGHBOURS = ("no_input", "output_full")

_NO_STATES = frozenset({"tasks", "queued", "workers"})  # lines that are no worker-seconds
_SLOW_TASK_TIMES = 5.0  # so many times as long as half of the stage's batches
_SLOW_TASK_BATCHES = 4  # with fewer batches there is nothing to compare one with
_ALONE = 1.25  # workers: at most so many were busy while a batch ran alone


def finite(value: Any) -> float | None:
    """Return a figure of a report as a finite number, ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def number(value: Any) -> float:
    """Return a figure of a report as a finite number; 0 stands for what is not there."""
    return finite(value) or 0.0


def rows(value: Any) -> list[Data]:
    """Return the entries of a list of a report that are objects."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, (list, tuple)) else []


def row(value: Any) -> Data:
    """Return an object of a report, an empty one if it is absent."""
    return value if isinstance(value, Mapping) else {}


def shard_of(report: Data) -> str | None:
    """Return which part of the sources a run processed, as ``"3/8"``; ``None`` if all."""
    shard = row(report.get("options")).get("shard")
    return None if shard is None else str(shard)


def numbers(value: Any) -> list[float]:
    """Return a list of figures; ``None`` counts as 0."""
    return [number(entry) for entry in value] if isinstance(value, (list, tuple)) else []


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``, 0 if the whole is nothing."""
    return number(part / whole) if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StageLoad:
    """How a stage, and those fused with it, used its workers.

    ``index``: of the stage whose workers they are. ``heaviest`` and ``name``: the one of the group that took most of
    the time. ``workers``: their mean number while the stage had any, for ``span_s`` seconds. ``time``: worker-seconds
    by what they did or waited for. ``tasks`` and ``batches``: that went in. ``gpus`` and ``gpu_memory_gb``: what one
    worker asks for; a stage asks for one of the two.
    """

    index: int
    heaviest: int
    name: str
    workers: float
    span_s: float
    time: Mapping[str, float]
    tasks: float
    batches: float
    gpus: float
    gpu_memory_gb: float

    @property
    def on_gpus(self) -> bool:
        return self.gpus > 0 or self.gpu_memory_gb > 0

    @property
    def lived_s(self) -> float:
        return sum(self.time.values())

    def share(self, *states: str) -> float:
        """Return the share of its workers' time that went into these states."""
        return ratio(sum(self.time.get(state, 0.0) for state in states), self.lived_s)

    @property
    def own_share(self) -> float:
        """The share of its workers' time for which no other stage was the reason."""
        return max(0.0, 1.0 - self.share(*self.neighbours)) if self.lived_s else 0.0

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The states for which another stage is the reason. Before the first stage is only the input."""
        return BY_NEIGHBOURS if self.index else ("output_full",)

    @property
    def own_s(self) -> float:
        """Seconds of the run for which the stage itself was the reason."""
        return self.span_s * self.own_share

    @property
    def work_s(self) -> float:
        """Seconds the stage would have taken alone, with these workers never idle."""
        return self.span_s * self.share(*WORK)

    @property
    def cause(self) -> str:
        """Where most of its own time went."""
        own = {state: seconds for state, seconds in self.time.items() if state not in self.neighbours}
        faults = sum(own.pop(state, 0.0) for state in FAULTS)
        if faults:
            own["retries"] = faults
        return max(own, key=lambda state: own[state], default="busy")


def stage_loads(report: Data) -> list[StageLoad]:
    """Return the stages that had workers of their own, in order."""
    stages = rows(report.get("stages"))
    groups: dict[int, list[Data]] = {}
    for position, stage in enumerate(stages):
        groups.setdefault(int(number(stage.get("lead_index", position))), []).append(stage)
    bin_s = number(row(report.get("timeline")).get("bin_s"))
    return [_load(group, lead, bin_s, wall_s(report)) for lead, group in sorted(groups.items())]


def _load(group: Sequence[Data], lead: int, bin_s: float, wall: float) -> StageLoad:
    first = next((stage for stage in group if number(stage.get("index")) == lead), group[0])
    heaviest = max(group, key=lambda stage: number(stage.get("process_s")))
    time = {str(state): max(0.0, number(seconds)) for state, seconds in row(first.get("time")).items()}
    lived = sum(time.values())
    span = _span_s(first, bin_s, wall)
    batches = number(heaviest.get("batches"))
    workers = ratio(lived, span)
    # A worker for which there was never a batch has nothing to say about the stage.
    unused = lived * max(0.0, 1.0 - ratio(batches, round(workers))) if batches else 0.0
    if "no_input" in time:
        time["no_input"] = max(0.0, time["no_input"] - unused)
    return StageLoad(
        index=lead,
        heaviest=int(number(heaviest.get("index", lead))),
        name=str(heaviest.get("name", "")),
        workers=workers,
        span_s=span if lived else 0.0,
        time=time,
        tasks=number(first.get("tasks_in")),
        batches=batches,
        gpus=number(first.get("gpus")),
        gpu_memory_gb=number(first.get("gpu_memory_gb")),
    )


def _span_s(stage: Data, bin_s: float, wall: float) -> float:
    """Return for how long the stage had workers, those that set up included."""
    lines = [numbers(line) for name, line in row(stage.get("timeline")).items() if name not in _NO_STATES]
    span = bin_s * sum(1 for values in zip_longest(*lines, fillvalue=0.0) if any(value > 0 for value in values))
    return min(span, wall) if span > 0 and wall > 0 else max(wall, span)


def wall_s(report: Data) -> float:
    """Return how long the run took, or has taken so far, in seconds."""
    timeline = row(report.get("timeline"))
    return number(report.get("wall_s")) or number(timeline.get("bin_s")) * number(timeline.get("bins"))


def limiting(loads: Sequence[StageLoad]) -> StageLoad | None:
    """Return the stage that was itself the reason for most of the run's time."""
    return max((load for load in loads if load.own_s > 0), key=lambda load: load.own_s, default=None)


def gain_of_more(loads: Sequence[StageLoad], slowest: StageLoad, wall: float, more: float = 1.0) -> float:
    """Return by how much ``more`` workers of the slowest stage would raise the run's throughput: 0.11 for +11 %.

    The stage's work is divided by more workers, until the next stage limits the run. What the run did besides, such as
    starting up, stays as it was.
    """
    count = max(1.0, round(slowest.workers))
    if slowest.batches <= count:
        return 0.0
    now = slowest.work_s
    others = max((load.work_s for load in loads if load is not slowest), default=0.0)
    then = max(now * count / (count + more), others)
    return max(0.0, ratio(wall, wall - (now - then)) - 1.0)


@dataclass(frozen=True, slots=True)
class SlowBatch:
    """A batch that the whole run waited for.

    ``cost_s``: how much of the run it took alone. ``usual_s``: how long half of the stage's batches took at most.
    """

    stage: Data
    batch: Data
    cost_s: float
    usual_s: float


def slowest_batch(report: Data) -> SlowBatch | None:
    """Return the batch that was much slower than its stage's others and ran alone for a while, or ``None``."""
    stages = rows(report.get("stages"))
    best: SlowBatch | None = None
    for batch in rows(report.get("slowest")):
        index = int(number(batch.get("stage_index")))
        if not 0 <= index < len(stages):
            continue
        stage, process = stages[index], number(batch.get("process_s"))
        service = row(stage.get("service_time"))
        usual = number(service.get("p50_s"))
        if number(stage.get("batches")) < _SLOW_TASK_BATCHES or process < _SLOW_TASK_TIMES * usual or process <= 0:
            continue
        cost = _alone_s(report, number(batch.get("began_s")), process)
        if best is None or cost > best.cost_s:
            best = SlowBatch(stage, batch, cost, usual)
    return best


def _alone_s(report: Data, began: float, process: float) -> float:
    """Return for how many seconds of a batch hardly another worker of the run was busy."""
    bin_s = number(row(report.get("timeline")).get("bin_s"))
    if bin_s <= 0:
        return 0.0
    busy = total_busy(report)
    alone = 0.0
    # The quotients may be infinite.
    first, last = (min(float(len(busy)), max(0.0, at / bin_s)) for at in (began, began + process))
    for position in range(int(first), math.ceil(last)):
        overlap = min(began + process, (position + 1) * bin_s) - max(began, position * bin_s)
        if overlap > 0 and busy[position] <= _ALONE * bin_s:
            alone += overlap
    return alone


def total_busy(report: Data) -> list[float]:
    """Return the worker-seconds of work in each bin of the report's time line, of all stages."""
    total: list[float] = []
    for stage in rows(report.get("stages")):
        for position, seconds in enumerate(numbers(row(stage.get("timeline")).get("busy"))):
            if position == len(total):
                total.append(0.0)
            total[position] += seconds
    return total


def gpus_of(report: Data, load: StageLoad) -> list[Data]:
    """Return the GPUs that the stage's workers were on. Where the workers do not tell, all GPUs of the report."""
    used = {
        uuid
        for worker in rows(report.get("workers"))
        if worker.get("stage_index") == load.index
        for uuid in worker.get("gpus") or ()
        if isinstance(uuid, str)
    }
    gpus = rows(report.get("gpus"))
    return [gpu for gpu in gpus if gpu.get("uuid") in used] if used else gpus


def series(gpu: Data, name: str) -> Data:
    """Return a series of a GPU, an empty one if there is none."""
    return next((found for found in rows(gpu.get("series")) if found.get("name") == name), {})


def throttled_share(gpu: Data) -> float | None:
    """Return the share of the time in which heat or the power supply slowed the GPU down, ``None`` if unknown.

    A power cap is no slowdown, and not in the series ``throttle``: it is how a GPU runs under full load.
    """
    return mean(min(1.0, max(0.0, value)) for value in known(series(gpu, "throttle")))


def mean(values: Iterable[float]) -> float | None:
    """Return the mean of figures, ``None`` of none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def known(found: Data, which: str = "mean") -> list[float]:
    """Return the readings of a series that are known."""
    return [number(value) for value in found.get(which) or () if value is not None]
