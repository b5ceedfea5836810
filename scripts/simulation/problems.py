"""Pipelines and nodes drawn at random from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gpuexec.hardware.model import Device, Gpu, Host, Node
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import cut_into_phases, make_allocator

GIB = 1024**3
_CPUS_PER_GPU = 16  # as in the usual servers of eight


@dataclass(frozen=True, slots=True)
class Problem:
    """A pipeline on a node. By stage: ``task_s``, the true seconds per task; ``tasks`` per source task."""

    name: str
    allocator: Allocator
    task_s: tuple[float, ...]
    tasks: tuple[float, ...]
    startup_s: tuple[float, ...]


def draw(gpus: int, stages: int, seed: int, *, unequal: bool) -> Problem:
    """Draw a pipeline whose stages fit ``gpus`` devices together (all of 80 GiB; ``unequal``: 24, 48 or 80)."""
    rng = random.Random(f"{gpus}/{stages}/{seed}/{unequal}")
    sizes = [rng.choice((24, 48, 80)) if unequal else 80 for _ in range(gpus)]
    devices = [Device(i, f"GPU-{i}", "paper", size * GIB, size * GIB) for i, size in enumerate(sizes)]
    host = Host("paper", tuple(range(_CPUS_PER_GPU * gpus)), None, None, None)
    node = Node(host, tuple(Gpu(i, f"GPU-{i}") for i in range(gpus)))
    while True:
        demands = [_demand(rng, i) for i in range(stages)]
        allocator, _ = make_allocator(demands, devices, node, PlanOptions())
        if len(cut_into_phases(allocator.requests, allocator.ledger, node)) == 1:
            break
    on_gpu = [r.uses_gpu for r in allocator.requests]
    task_s = tuple(rng.lognormvariate(0.0, 1.0) * (1.0 if gpu else 0.3) for gpu in on_gpu)
    tasks = tuple(rng.choice((0.5, 1.0, 1.0, 1.0, 2.0, 4.0)) for _ in on_gpu)
    startup_s = tuple(rng.uniform(10, 90) if gpu else rng.uniform(0.3, 3) for gpu in on_gpu)
    kind = "unequal" if unequal else "equal"
    return Problem(f"{gpus} {kind} GPUs, {stages} stages", allocator, task_s, tasks, startup_s)


def _demand(rng: random.Random, number: int) -> StageDemand:
    name = f"stage{number}"
    if rng.random() < 0.6:
        return StageDemand(name, cpus=rng.choice((0.5, 1.0, 1.0, 2.0)))
    if rng.random() < 0.3:
        return StageDemand(name, cpus=1.0, gpu_memory_gb=rng.choice((6.0, 10.0, 11.9, 20.0)))
    return StageDemand(name, cpus=1.0, gpus=rng.choice((0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 1.0, 1.0, 2.0)))
