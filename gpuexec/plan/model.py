"""What goes into a plan and what comes out: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuexec.contract.allocation import Allocation
from gpuexec.policies import BusyGpuPolicy


@dataclass(frozen=True, slots=True)
class StageDemand:
    """What one stage asks for. ``gpu_memory_gb`` is in GiB (Curator's "GB"); 0 means not asked.

    ``num_workers`` is the stage's own fixed count, ``None`` to let the planner choose.
    """

    name: str
    cpus: float = 1.0
    gpus: float = 0.0
    gpu_memory_gb: float = 0.0
    num_workers: int | None = None


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Reserves and policies. ``busy_memory_fraction``: fraction of a GPU's memory others may hold and still be idle."""

    reserved_cpus: float = 0.0
    reserved_gpus: float = 0.0
    busy_gpus: BusyGpuPolicy = BusyGpuPolicy.SKIP
    busy_memory_fraction: float = 0.1
    cpu_stages_see_gpus: bool = False


@dataclass(frozen=True, slots=True)
class WorkerGrant:
    """One worker: which stage, what it gets, where its CPUs should be (() = anywhere)."""

    worker_id: str  # "<stage>-<n>"
    stage_index: int
    allocation: Allocation
    cpu_affinity: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The workers a stage may have at once, and why that many.

    ``fixed``: the count is the stage's own ``num_workers()``. Otherwise GPU stages begin with all of these, CPU
    stages with one, and the counts follow the measured service times.
    """

    stage_index: int
    name: str
    workers: tuple[WorkerGrant, ...]
    fixed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Phase:
    """Stages that run at the same time, joined by bounded queues."""

    stages: tuple[StagePlan, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run: phases one after the other; ``notes`` are what the user should know about it."""

    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = field(default=())
