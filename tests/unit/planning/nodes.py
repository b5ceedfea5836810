"""Devices, nodes and demands for the planner's tests."""

from __future__ import annotations

from gpuexec.hardware.model import Device, Gpu, Host, Link, LinkKind, Node
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import make_allocator, plan_phases

GIB = 1024**3


def device(index: int, memory_gib: float | None = 80, **fields) -> Device:
    size = None if memory_gib is None else int(memory_gib * GIB)
    defaults = {"memory_total_bytes": size, "memory_free_bytes": size, "name": "GPU", "uuid": f"GPU-{index}"}
    return Device(index=index, **{**defaults, **fields})


def node(gpus: int = 0, links: tuple[Link, ...] = (), cpus: int = 16, quota: float | None = None) -> Node:
    host = Host("here", tuple(range(cpus)), quota, 64 * GIB, 64 * GIB)
    return Node(host, tuple(Gpu(i, f"GPU-{i}") for i in range(gpus)), links)


def plan(demands, devices=(), on=None, **options):
    where = on or node(len(devices))
    reason = None if devices else "no driver"
    allocator, notes = make_allocator(
        list(demands), list(devices), where, PlanOptions(**options), no_devices_reason=reason
    )
    return plan_phases(allocator, notes)


def demand(name="s", **fields) -> StageDemand:
    return StageDemand(name, **fields)


def workers(made, stage_index: int):
    return [w for phase in made.phases for s in phase.stages if s.stage_index == stage_index for w in s.workers]


def nvlink(a: int, b: int, count: int = 1) -> Link:
    return Link(a, b, LinkKind.NVLINK, count)
