"""What a sweep is: points, trials, and what was measured. Values only.

A *sweep* tries one pipeline with different settings. A *point* is one set of settings, a *trial* is one run of a
point. Figures that are not known are ``None``, never 0. Units: seconds, bytes, joules; times of day are POSIX times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from gpuexec.records import Record

TODAY = "p00"  # the point without settings: today's configuration


class Goal(StrEnum):
    """What the best point is best at."""

    THROUGHPUT = "throughput"  # most items per second
    JOULES = "joules"  # fewest joules per item
    LATENCY = "latency"  # shortest time of a task from entry to exit, by its 99th percentile


class SearchKind(StrEnum):
    """Which points get how many trials."""

    GRID = "grid"  # every point gets the same
    HALVING = "halving"  # short trials for all points, longer ones for the better half, and so on


class TrialStatus(StrEnum):
    """How a trial ended."""

    OK = "ok"
    OUT_OF_MEMORY = "out_of_memory"  # a GPU had no memory left
    CRASHED = "crashed"  # a worker, or the process of the trial, died
    TIMED_OUT = "timed_out"  # it took longer than the limit and was killed
    REFUSED = "refused"  # the planner cannot meet the request: nothing was run
    FAILED = "failed"  # the pipeline raised, or could not be loaded
    INTERRUPTED = "interrupted"  # Ctrl-C; it is run again by --resume


class Point(Record):
    """One set of settings.

    ``settings`` by name: ``STAGE.key`` for what a stage's ``with_()`` takes, ``option.NAME`` for an executor option,
    ``set.KEY`` for an argument of the target function. The point with the id ``p00`` has none: it is today's
    configuration.
    """

    id: str
    settings: Mapping[str, Any] = field(hash=False)


class Trial(Record):
    """One run that is to be done.

    ``number``: counts all trials of a sweep, from 0. ``repeat``: 0 for a warm-up, which does not count, else from 1.
    ``rung``: the round of a halving search, from 0; 0 in a grid. ``budget_s``: the run is ended after so long;
    ``None``: it runs to its end. ``again``: the same repeat was run before, and marked; this one takes its place.
    """

    number: int
    point_id: str
    repeat: int
    rung: int
    budget_s: float | None
    again: bool = False

    @property
    def counts(self) -> bool:
        """False for a warm-up."""
        return self.repeat > 0


class StageFigures(Record):
    """What one stage did in a trial.

    ``idle``: seconds of its workers by reason (`gpuexec.core.worker_time`). ``workers``: their mean number while the
    stage had any. ``gpu_memory_gb``: what the stage asked for per worker.
    """

    name: str
    items_per_s: float | None
    service_p50_s: float | None
    service_p90_s: float | None
    service_p99_s: float | None
    peak_gpu_bytes: int | None
    joules_per_item: float | None
    idle: Mapping[str, float] = field(hash=False)
    workers: float | None
    gpu_memory_gb: float | None


class TrialResult(Record):
    """What came of a trial.

    ``marks``: what makes its figures doubtful, as ``kind: what was seen``; the kinds are ``another tenant``,
    ``throttled`` and ``clock changed``. ``throughput``: items of the last stage per second, without start-up
    (`gpuexec.bench.arrivals.throughput_of` has the exact definition). ``joules``: of the GPUs, for these items at this
    pace. ``latency_*``: of a task from its entry to its exit.
    ``energy_is_short``: the energy was measured over less than 10 s, so that idle power and the counter's steps show.
    ``run_folder``: where its report and page are, seen from the sweep's folder. ``sm_clock_mhz``: mean clock of its
    GPUs under load.
    """

    trial: Trial
    status: TrialStatus
    reason: str | None
    marks: tuple[str, ...]
    seconds: float | None
    items: int | None
    throughput: float | None
    first_result_s: float | None
    latency_p50_s: float | None
    latency_p99_s: float | None
    joules: float | None
    joules_per_item: float | None
    energy_is_short: bool
    stages: tuple[StageFigures, ...]
    run_folder: str | None
    started_at: float
    sm_clock_mhz: float | None = None


class Sweep(Record):
    """A whole sweep, as far as it has come.

    ``varied``: the values of each name that is varied. ``today``: what each of them is without a setting; ``None`` for
    a name means that it is not known, or not set. ``fixed``: arguments of the target (``--set``) that all points share.
    ``fields``: the varied names that are fields of a stage's dataclass, which its ``with_()`` does not take.
    """

    target: str
    varied: Mapping[str, tuple[Any, ...]] = field(hash=False)
    fixed: Mapping[str, Any] = field(hash=False)
    goal: Goal
    search: SearchKind
    repeat: int
    warmup: int
    seed: int
    points: tuple[Point, ...]
    results: tuple[TrialResult, ...]
    node: Mapping[str, Any] = field(hash=False)
    versions: Mapping[str, Any] = field(hash=False)
    started_at: float
    today: Mapping[str, Any] = field(hash=False)
    complete: bool
    fields: tuple[str, ...] = ()

    @property
    def counted(self) -> tuple[TrialResult, ...]:
        """The results that figures are made of: no warm-ups, nothing interrupted, and of each repeat the last."""
        last = {
            (each.trial.point_id, each.trial.rung, each.trial.repeat): each
            for each in self.results
            if each.trial.counts and each.status is not TrialStatus.INTERRUPTED
        }
        return tuple(last.values())
