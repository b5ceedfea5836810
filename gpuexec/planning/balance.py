"""How many workers each stage should have: the counts with the highest throughput that fit the node.

A stage with w workers, each of which works for a seconds per source task, passes w / a source tasks a second; the
pipeline passes what its slowest stage does. So the best throughput T is one of the values w / a, and it needs
ceil(T · a) workers of each stage: more would only wait. From the highest T that the sums of CPUs and devices allow,
the search goes down until the workers fit, and skips no better T on the way.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpuexec.errors import InternalError
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.packing import Bins, Effort, Packing
from gpuexec.planning.request import Request, cpus_of, fits_cpus, max_workers_on_cpus
from gpuexec.planning.workload import StageLoad


class ThroughputLimit(StrEnum):
    """What keeps the throughput from being higher."""

    CPUS = "all usable CPUs are taken"
    GPUS = "no more workers fit on the GPUs"
    FIXED_COUNT = "num_workers() of the slowest stage"
    MAX_WORKERS = "max_workers of the slowest stage"
    NO_MORE_WORK = "the slowest stage has no work for more workers"
    NOT_MEASURED = "no stage has been measured yet"


@dataclass(frozen=True, slots=True)
class Balance:
    """The best counts, in the order of the stages.

    ``throughput``: source tasks a second, ``None`` while no stage is measured. ``slowest``: position of the stage
    that sets it. ``limit``: why it is not higher. ``proven``: no other counts are better; if not, there were too
    many ways to fill the devices to try them all.
    """

    counts: tuple[int, ...]
    throughput: float | None
    slowest: int | None
    limit: ThroughputLimit
    proven: bool


def balance(stages: Sequence[StageLoad], ledger: Ledger, usable_cpus: float) -> Balance:
    """Choose the counts for stages that run at the same time. ``ledger``: as it is without any worker.

    CPU and GPU workers share one CPU budget. Where the smallest possible counts take more than ``usable_cpus``,
    the budget is what they take. Raises ``InternalError`` if not even one worker of each stage, or its fixed count,
    fits the devices.
    """
    return _Problem(stages, ledger, usable_cpus).solve()


def slowest_of(stages: Sequence[StageLoad], counts: Sequence[int]) -> tuple[int | None, float | None]:
    """Return position and throughput of the slowest stage with these counts; ``None`` if no stage is measured."""
    rates = [(n / stage.work_s, i) for i, (n, stage) in enumerate(zip(counts, stages, strict=True)) if stage.work_s]
    if not rates:
        return None, None
    throughput, slowest = min(rates)
    return slowest, throughput


class _Problem:
    """The stages and what they share; the search starts from their smallest possible counts."""

    def __init__(self, stages: Sequence[StageLoad], ledger: Ledger, usable_cpus: float) -> None:
        self._stages = stages
        self._bins = Bins(ledger, [stage.request for stage in stages])
        self._packings: dict[tuple[int, ...], Packing] = {}
        self._effort = Effort()
        self._min_counts = self._find_min_counts()
        self._budget = max(usable_cpus, self._cpus(self._min_counts))

    def solve(self) -> Balance:
        """Go down from the highest throughput that the sums allow."""
        ceiling, limit = self._ceiling()
        steps = self._steps(ceiling)
        start = bisect.bisect_left(range(len(steps)), True, key=lambda i: self._sums_allow(self._counts_for(steps[i])))
        if start:
            too_many = self._counts_for(steps[start - 1])
            limit = ThroughputLimit.GPUS if fits_cpus(self._cpus(too_many), self._budget) else ThroughputLimit.CPUS
        proven = True
        for throughput in steps[start:]:
            counts = self._counts_for(throughput)
            packing = self._pack(counts)
            if packing.slots is not None:
                return self._answer(counts, limit, proven=proven)
            limit, proven = ThroughputLimit.GPUS, proven and packing.proven
        return self._answer(self._min_counts, limit, proven=proven)

    def _answer(self, counts: tuple[int, ...], limit: ThroughputLimit, *, proven: bool) -> Balance:
        slowest, throughput = slowest_of(self._stages, counts)
        if slowest is None:
            limit = ThroughputLimit.NOT_MEASURED
        return Balance(counts=counts, throughput=throughput, slowest=slowest, limit=limit, proven=proven)

    def _find_min_counts(self) -> tuple[int, ...]:
        """Return the fixed counts, the present ones of stages that are not measured, and the least of all others.

        If these do not fit, a stage that is not measured gets its least number of workers, too.
        """
        present = tuple(
            s.fixed_count or (max(s.fewest, s.workers) if s.work_s is None else s.fewest) for s in self._stages
        )
        if self._pack(present).slots is not None:
            return present
        bare = tuple(stage.fewest for stage in self._stages)
        packing = self._pack(bare)
        if packing.slots is None and packing.proven:
            raise InternalError(
                f"one worker of each stage does not fit: {[s.request.describe() for s in self._stages]}"
            )
        return bare

    def _ceiling(self) -> tuple[float, ThroughputLimit]:
        """Return the highest throughput that the stages which cannot grow allow."""
        ceiling, limit = math.inf, ThroughputLimit.CPUS
        for stage in self._stages:
            count = stage.most
            if count and stage.work_s and count / stage.work_s < ceiling:
                ceiling, limit = count / stage.work_s, _limit_of(stage)
        return ceiling, limit

    def _steps(self, ceiling: float) -> list[float]:
        """Return all throughputs that may be the best, the highest first; for each stage one that is too high."""
        _, base = slowest_of(self._stages, self._min_counts)
        if base is None:
            return []
        steps = {ceiling} if base < ceiling < math.inf else set()
        free_cpus = self._budget - self._cpus(self._min_counts)
        for stage in self._stages:
            if stage.fixed_count is None and stage.work_s:
                max_workers = stage.fewest + max_workers_on_cpus(stage.request, free_cpus)
                if stage.request.uses_gpu:
                    max_workers = min(max_workers, self._bins.max_workers(stage.request))
                steps |= {t for n in range(1, max_workers + 2) if base < (t := n / stage.work_s) <= ceiling}
        return sorted(steps, reverse=True)

    def _counts_for(self, throughput: float) -> tuple[int, ...]:
        """Return the fewest workers of each stage for a throughput."""
        return tuple(
            min_count
            if stage.fixed_count or not stage.work_s
            else max(min_count, _workers_for(throughput, stage.work_s))
            for stage, min_count in zip(self._stages, self._min_counts, strict=True)
        )

    def _sums_allow(self, counts: tuple[int, ...]) -> bool:
        return fits_cpus(self._cpus(counts), self._budget) and self._bins.sums_allow(self._on_gpus(counts))

    def _pack(self, counts: tuple[int, ...]) -> Packing:
        on_gpus = self._on_gpus(counts)
        key = tuple(n for _, n in on_gpus)
        if key not in self._packings:
            self._packings[key] = self._bins.pack(on_gpus, self._effort)
        return self._packings[key]

    def _on_gpus(self, counts: tuple[int, ...]) -> list[tuple[Request, int]]:
        return [(s.request, n) for s, n in zip(self._stages, counts, strict=True) if s.request.uses_gpu]

    def _cpus(self, counts: tuple[int, ...]) -> float:
        return math.fsum(n * cpus_of(s.request) for s, n in zip(self._stages, counts, strict=True))


def _limit_of(stage: StageLoad) -> ThroughputLimit:
    """Return what keeps a stage from having more workers than ``stage.most``."""
    if stage.fixed_count:
        return ThroughputLimit.FIXED_COUNT
    return ThroughputLimit.MAX_WORKERS if stage.most == stage.request.demand.most else ThroughputLimit.NO_MORE_WORK


def _workers_for(throughput: float, work_s: float) -> int:
    """Return the smallest n with n / work_s >= throughput, as the division rounds."""
    n = max(1, math.ceil(throughput * work_s))
    while n > 1 and (n - 1) / work_s >= throughput:
        n -= 1
    while n / work_s < throughput:
        n += 1
    return n
