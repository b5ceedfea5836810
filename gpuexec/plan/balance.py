"""How many workers each stage should have: the counts with the highest throughput that fit the node.

A stage with w workers, each of which works for a seconds on what one source task becomes there, passes w / a
source tasks a second; the pipeline passes what its slowest stage does. So the best throughput T is one of the
values w / a, and it needs ceil(T · a) workers of each stage: more would only wait. From the highest T that CPUs
and devices allow by their sums, the search goes down until the workers fit; nothing better is left out.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpuexec.errors import InternalError
from gpuexec.plan.counts import cpus_of
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.packing import Bins, Packing
from gpuexec.plan.request import Request

_ROUNDING = 1e-9  # CPUs: ten workers of 0.1 are one


class Limit(StrEnum):
    """What keeps the throughput from being higher."""

    CPUS = "the usable CPUs are all taken"
    GPUS = "no more fit on the GPUs"
    FIXED = "num_workers() of the slowest stage"
    ENOUGH = "the slowest stage has no work for more workers"
    UNKNOWN = "no stage has been measured yet"


@dataclass(frozen=True, slots=True)
class StageLoad:
    """A stage and the work it has.

    ``workers``: how many it has now. ``seconds``: mean time a worker spends on a task. ``tasks``: how many of
    its tasks one source task becomes (or, in the same way for all stages, how many it still has to do). Where
    one of the two is ``None`` (not measured), the stage keeps its workers. ``most``: more would find no work.
    """

    request: Request
    workers: int
    seconds: float | None
    tasks: float | None = 1.0
    most: int | None = None

    @property
    def work_s(self) -> float | None:
        """Worker seconds for one source task."""
        return None if self.seconds is None or self.tasks is None else self.seconds * self.tasks

    @property
    def fixed(self) -> int | None:
        """The stage's own count."""
        return self.request.demand.num_workers


@dataclass(frozen=True, slots=True)
class Balance:
    """The counts, in the order of the stages.

    ``throughput``: source tasks a second, ``None`` while no stage is measured; ``slowest``: position of the
    stage that sets it; ``limit``: why it is not higher. ``proven``: no counts are better; otherwise there were
    too many ways to fill the devices to try them all.
    """

    counts: tuple[int, ...]
    throughput: float | None
    slowest: int | None
    limit: Limit
    proven: bool


def balance(stages: Sequence[StageLoad], ledger: Ledger, usable_cpus: float) -> Balance:
    """Choose the counts for stages that run at the same time. ``ledger``: as it is without any worker.

    The CPU budget is for CPU and GPU workers alike; where the least workers take more, it is what they take.
    Raises ``InternalError`` where not even one worker of each stage (or its own number) fits the devices.
    """
    return _Problem(stages, ledger, usable_cpus).solve()


def slowest_of(stages: Sequence[StageLoad], counts: Sequence[int]) -> tuple[int | None, float | None]:
    """Position and throughput of the slowest stage with these counts; ``None`` where no stage's is known."""
    rates = [(n / stage.work_s, i) for i, (n, stage) in enumerate(zip(counts, stages, strict=True)) if stage.work_s]
    if not rates:
        return None, None
    rate, slowest = min(rates)
    return slowest, rate


class _Problem:
    """The stages and what they share, with the least counts as the base."""

    def __init__(self, stages: Sequence[StageLoad], ledger: Ledger, usable_cpus: float) -> None:
        self._stages = stages
        self._bins = Bins(ledger, [stage.request for stage in stages])
        self._packed: dict[tuple[int, ...], Packing] = {}
        self._least = self._least_counts()
        self._budget = max(usable_cpus, self._cpus(self._least)) + _ROUNDING

    def solve(self) -> Balance:
        """Go down from the highest throughput that the sums allow."""
        ceiling, limit = self._ceiling()
        steps = self._steps(ceiling)
        start = bisect.bisect_left(range(len(steps)), True, key=lambda i: self._sums_allow(self._needs(steps[i])))
        if start:
            limit = Limit.CPUS if self._cpus(self._needs(steps[start - 1])) > self._budget else Limit.GPUS
        proven = True
        for throughput in steps[start:]:
            counts = self._needs(throughput)
            packing = self._pack(counts)
            if packing.places is not None:
                return self._answer(counts, limit, proven=proven)
            limit, proven = Limit.GPUS, proven and packing.proven
        return self._answer(self._least, limit, proven=proven)

    def _answer(self, counts: tuple[int, ...], limit: Limit, *, proven: bool) -> Balance:
        slowest, throughput = slowest_of(self._stages, counts)
        return Balance(counts, throughput, slowest, Limit.UNKNOWN if slowest is None else limit, proven)

    def _least_counts(self) -> tuple[int, ...]:
        """One worker, the stage's own number, or what a stage without figures has now."""
        held = tuple(s.fixed or (max(1, s.workers) if s.work_s is None else 1) for s in self._stages)
        if self._pack(held).places is not None:
            return held
        bare = tuple(stage.fixed or 1 for stage in self._stages)
        packing = self._pack(bare)
        if packing.places is None and packing.proven:
            raise InternalError(
                f"one worker of each stage does not fit: {[s.request.describe() for s in self._stages]}"
            )
        return bare

    def _ceiling(self) -> tuple[float, Limit]:
        """The throughput that stages which cannot grow allow."""
        ceiling, limit = math.inf, Limit.CPUS
        for stage in self._stages:
            count = stage.fixed or stage.most
            if count and stage.work_s and count / stage.work_s < ceiling:
                ceiling, limit = count / stage.work_s, Limit.FIXED if stage.fixed else Limit.ENOUGH
        return ceiling, limit

    def _steps(self, ceiling: float) -> list[float]:
        """All throughputs that may be the best, the highest first; each stage's goes one worker too far."""
        _, base = slowest_of(self._stages, self._least)
        if base is None:
            return []
        steps = {ceiling} if base < ceiling < math.inf else set()
        spare = self._budget - self._cpus(self._least)
        for stage in self._stages:
            if stage.fixed is None and stage.work_s:
                most = 1 + math.floor(spare / cpus_of(stage.request))
                if stage.request.uses_gpu:
                    most = min(most, self._bins.most(stage.request))
                steps |= {t for n in range(1, most + 2) if base < (t := n / stage.work_s) <= ceiling}
        return sorted(steps, reverse=True)

    def _needs(self, throughput: float) -> tuple[int, ...]:
        """The fewest workers of each stage for a throughput."""
        return tuple(
            place_minimum
            if stage.fixed or not stage.work_s
            else max(place_minimum, _workers_for(throughput, stage.work_s))
            for stage, place_minimum in zip(self._stages, self._least, strict=True)
        )

    def _sums_allow(self, counts: tuple[int, ...]) -> bool:
        return self._cpus(counts) <= self._budget and self._bins.sums_allow(self._on_gpus(counts))

    def _pack(self, counts: tuple[int, ...]) -> Packing:
        on_gpus = self._on_gpus(counts)
        key = tuple(n for _, n in on_gpus)
        if key not in self._packed:
            self._packed[key] = self._bins.pack(on_gpus)
        return self._packed[key]

    def _on_gpus(self, counts: tuple[int, ...]) -> list[tuple[Request, int]]:
        return [(s.request, n) for s, n in zip(self._stages, counts, strict=True) if s.request.uses_gpu]

    def _cpus(self, counts: tuple[int, ...]) -> float:
        return math.fsum(n * cpus_of(s.request) for s, n in zip(self._stages, counts, strict=True))


def _workers_for(throughput: float, work_s: float) -> int:
    """The least n with n / work_s >= throughput, as the division rounds."""
    n = max(1, math.ceil(throughput * work_s))
    while n > 1 and (n - 1) / work_s >= throughput:
        n -= 1
    while n / work_s < throughput:
        n += 1
    return n
