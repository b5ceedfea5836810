"""How long the planner takes on a node that exists on paper only: 8 GPUs, 64 CPUs, 20 stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpuexec.bench.builtin.machine import conditions
from gpuexec.bench.builtin.model import Figure
from gpuexec.hardware.model import Device, Gpu, Host, Node
from gpuexec.planning.balance import balance
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.planning.workload import StageLoad
from gpuexec.report.figures import LOWER
from gpuexec.units import GIB

_GPUS, _CPUS, _STAGES = 8, 64, 20
_SIZE = 80 * GIB


def planner_figures(machine: Mapping[str, Any], repeats: int) -> Iterator[Figure]:
    """Measure a starting plan, and the choice of worker counts for measured stages."""
    depends_on = conditions(machine, "cpu", "python", "gpuexec")
    demands = [StageDemand(f"stage{i}", gpus=(0.25, 0.5, 1.0)[i % 3] if i % 4 == 0 else 0.0) for i in range(_STAGES)]
    devices = [Device(i, f"GPU-{i}", "on paper", _SIZE, _SIZE) for i in range(_GPUS)]
    node = Node(
        Host("on paper", tuple(range(_CPUS)), None, None, None), tuple(Gpu(i, f"GPU-{i}") for i in range(_GPUS))
    )
    allocator, _ = make_allocator(demands, devices, node, PlanOptions())
    loads = [StageLoad(request, 1, 0.01 * (1 + 7 * i % 11)) for i, request in enumerate(allocator.requests)]
    yield Figure(
        "planner.start",
        "starting plan: 20 stages on 8 GPUs",
        "ms",
        LOWER,
        _timed(repeats, lambda: plan_phases(make_allocator(demands, devices, node, PlanOptions())[0])),
        conditions=depends_on,
    )
    yield Figure(
        "planner.counts",
        "worker counts for the same, measured",
        "ms",
        LOWER,
        _timed(repeats, lambda: balance(loads, allocator.ledger, allocator.usable_cpus)),
        conditions=depends_on,
    )


def _timed(repeats: int, work: Callable[[], object]) -> tuple[float, ...]:
    """Return the milliseconds of each call; of the CPU, so that what else runs on it does not count."""
    work()
    found = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        found.append((time.thread_time() - began) * 1e3)
    return tuple(found)
