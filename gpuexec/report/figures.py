"""The figures of a run that are compared: of the whole run, and of each of its stages. Pure.

A figure that a report lacks is ``None``, with the reason where the report has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from gpuexec.records import Record
from gpuexec.report.bounds import Data, finite, number, ratio, row, rows

HIGHER, LOWER = "higher", "lower"
THROUGHPUT, TASK_TIME = "throughput", "task_s"

_BUSY = "busy"


class Figure(Record):
    """A figure of one run. ``unit``: "tasks/s", "s", "share", "bytes", "J" or "" for counts.

    ``better``: "higher" or "lower"; ``None`` where neither is better by itself.
    """

    key: str
    name: str
    unit: str
    better: str | None
    value: float | None
    reason: str | None = None

    @property
    def group(self) -> str:
        """Return what shares are shares of; of any other figure, its key."""
        return self.key.partition(".")[0]


def figures_of_run(report: Data) -> list[Figure]:
    """Return the figures of a whole run."""
    stages, gpus = rows(report.get("stages")), rows(report.get("gpus"))
    peaks = [peak for stage in stages if (peak := finite(row(stage.get("gpu_memory")).get("peak_bytes"))) is not None]
    joules = _joules([row(gpu.get("energy")) for gpu in gpus])
    done = finite(report.get("tasks_out"))
    attempts = [finite(stage.get("failed_attempts")) for stage in stages]
    return [
        Figure(THROUGHPUT, "throughput", "tasks/s", HIGHER, finite(report.get("throughput_per_s"))),
        Figure("wall_s", "duration", "s", LOWER, finite(report.get("wall_s"))),
        *_shares("time", "time", (stage.get("time") for stage in stages)),
        *(_shares("gpu", "GPU", (gpu.get("time") for gpu in gpus)) if gpus else ()),
        *([Figure("gpu_memory", "GPU memory, largest", "bytes", LOWER, max(peaks))] if peaks else ()),
        *([Figure("joules", "energy of the GPUs", "J", LOWER, joules.value, joules.reason)] if gpus else ()),
        *([_per_task("joules_per_task", "energy per task out", joules, done)] if gpus else ()),
        Figure("failed_attempts", "failed attempts", "", LOWER, _total(attempts)),
    ]


def figures_of_stage(report: Data, stage: Data) -> list[Figure]:
    """Return the figures of a stage. Of fused stages, only the first has times and workers of its own."""
    service, memory, energy = (row(stage.get(name)) for name in ("service_time", "gpu_memory", "energy"))
    tasks = finite(stage.get("tasks_in"))
    own_workers = stage.get("lead_index", stage.get("index")) == stage.get("index")
    found = [
        Figure("tasks_per_s", "tasks per second", "tasks/s", HIGHER, finite(stage.get("tasks_per_s"))),
        _per_task(
            TASK_TIME, "process time per task", Figure("", "", "s", LOWER, finite(stage.get("process_s"))), tasks
        ),
        _per_task("mean_s", "batch, mean", Figure("", "", "s", LOWER, finite(service.get("sum_s"))), _count(service)),
        *(
            Figure(f"{share}_s", f"batch, {share}", "s", LOWER, finite(service.get(f"{share}_s")) if service else None)
            for share in ("p50", "p90", "p99")
        ),
        _per_task("queue_s", "wait in the queue", Figure("", "", "s", LOWER, finite(stage.get("queued_s"))), tasks),
    ]
    if own_workers:
        found.append(Figure("workers", "workers with batches", "", None, _workers(report, stage)))
        found += _shares("time", "time", [stage.get("time")])
    if finite(memory.get("asked_bytes")) or finite(memory.get("peak_bytes")):
        reason = memory.get("reason")
        found.append(Figure("gpu_memory", "GPU memory, peak", "bytes", LOWER, finite(memory.get("peak_bytes")), reason))
        joules = Figure("", "", "J", LOWER, finite(energy.get("joules")), energy.get("reason"))
        found.append(_per_task("joules_per_task", "energy/task, attributed", joules, tasks))
    found.append(Figure("rss_peak", "host memory, peak", "bytes", LOWER, finite(stage.get("rss_peak_bytes"))))
    found.append(Figure("failed_attempts", "failed attempts", "", LOWER, finite(stage.get("failed_attempts"))))
    return found


def work_share(report: Data, stage: Data) -> float:
    """Return how long a stage's batches took together, as a share of the run's duration."""
    wall = number(report.get("wall_s")) or number(report.get("elapsed_s"))
    return ratio(number(stage.get("process_s")), wall)


def _shares(key: str, of: str, times: Iterable[Any]) -> Iterator[Figure]:
    """Yield what the time of workers, or of GPUs, went to, in shares of it: busy first, then the largest."""
    sums: dict[str, float] = {}
    for parts in times:
        for part, seconds in row(parts).items():
            sums[str(part)] = sums.get(str(part), 0.0) + max(0.0, number(seconds))
    lived = sum(sums.values())
    if lived <= 0 or not math.isfinite(lived):
        return
    for part in sorted(sums, key=lambda part: (part != _BUSY, -sums[part], part)):
        name = f"{of}: {part.replace('_', ' ')}"
        yield Figure(f"{key}.{part}", name, "share", None, sums[part] / lived)


def _joules(energies: list[Data]) -> Figure:
    """Return the energy of all GPUs; only measured energy counts, and only if it is known of every GPU."""
    values = [finite(energy.get("joules")) for energy in energies]
    reasons = [str(energy.get("reason") or "no reading") for energy in energies if finite(energy.get("joules")) is None]
    return Figure("joules", "", "J", LOWER, _total(values), reasons[0] if reasons else None)


def _per_task(key: str, name: str, total: Figure, tasks: float | None) -> Figure:
    value = total.value / tasks if total.value is not None and tasks else None
    reason = total.reason or ("there were none" if tasks == 0 else None)
    return Figure(key, name, total.unit, total.better, value, reason)


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _workers(report: Data, stage: Data) -> float:
    index = stage.get("index")
    return float(
        sum(w.get("stage_index") == index and number(w.get("batches")) > 0 for w in rows(report.get("workers")))
    )


def _count(service: Data) -> float | None:
    return finite(service.get("count"))
