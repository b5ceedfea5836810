"""The planner's inputs and its plan: frozen values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field, replace

from gpuexec.contract.allocation import Allocation
from gpuexec.policies import BusyGpuPolicy, GpuPinning
from gpuexec.records import Record


class StageDemand(Record):
    """What one stage asks for. ``gpu_memory_gb`` is in GiB (Curator's "GB"); 0 means none.

    ``num_workers`` is the stage's own fixed count; ``None`` lets the planner choose, from ``min_workers`` to
    ``max_workers``. It starts with ``initial_workers``; ``None`` for all of these: not set.
    """

    name: str
    cpus: float = 1.0
    gpus: float = 0.0
    gpu_memory_gb: float = 0.0
    num_workers: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    initial_workers: int | None = None

    @property
    def fewest(self) -> int:
        """The number of workers that it has at least."""
        return self.num_workers or self.min_workers or 1

    @property
    def most(self) -> int | None:
        """The number of workers that it may have at most; ``None`` for any number."""
        return self.num_workers or self.max_workers

    @property
    def at_first(self) -> int | None:
        """The number of workers that it asks to start with; ``None`` leaves that to the planner."""
        return self.num_workers or self.initial_workers or self.min_workers


class PlanOptions(Record):
    """Reserves and policies.

    ``busy_memory_fraction``: fraction of a GPU's memory other processes may use before the GPU counts as busy.
    """

    reserved_cpus: float = 0.0
    reserved_gpus: float = 0.0
    busy_gpus: BusyGpuPolicy = BusyGpuPolicy.SKIP
    busy_memory_fraction: float = 0.1
    cpu_stages_see_gpus: bool = False
    pinning: GpuPinning = GpuPinning.UUID


class WorkerGrant(Record):
    """One worker's share of the node: its stage, its GPUs and CPUs, and the CPUs it should run on (() = any)."""

    worker_id: str  # "<stage>-<n>"
    stage_index: int
    allocation: Allocation
    cpu_affinity: tuple[int, ...] = ()

    def renamed(self, worker_id: str) -> WorkerGrant:
        """Return the same share for another worker."""
        return replace(self, worker_id=worker_id)


def next_worker_number(stage_name: str, taken_ids: Collection[str]) -> int:
    """Return the number of the stage's next worker, larger than those of all so far."""
    pairs = (worker_id.rpartition("-") for worker_id in taken_ids)
    return max((int(number) for name, _, number in pairs if name == stage_name), default=-1) + 1


def next_worker_id(stage_name: str, taken_ids: Collection[str]) -> str:
    """Return the id of the stage's next worker."""
    return f"{stage_name}-{next_worker_number(stage_name, taken_ids)}"


class StagePlan(Record):
    """The workers a stage may have at once, and why that many.

    ``has_fixed_count``: the count is the stage's own ``num_workers()``. Otherwise a GPU stage starts with all of
    these workers and a CPU stage with one, and the counts follow the measured service times. ``fused``: the indices of
    the stages after it that its workers run too. ``at_first``: with how many of the workers it starts, if it asks for a
    number. ``fewest``: with how many it always goes on.
    """

    stage_index: int
    name: str
    workers: tuple[WorkerGrant, ...]
    has_fixed_count: bool
    reason: str
    fused: tuple[int, ...] = ()
    at_first: int | None = None
    fewest: int = 1


class Phase(Record):
    """Stages that run at the same time, connected by bounded queues."""

    stages: tuple[StagePlan, ...]


class Plan(Record):
    """The whole run: its phases, one after the other; ``notes`` are for the user."""

    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = field(default=())

    def device_uuids(self) -> list[str]:
        """Return the UUIDs of the devices (GPUs or MIG slices) that its workers use, each once."""
        grants = [grant for phase in self.phases for stage in phase.stages for grant in stage.workers]
        return sorted({share.uuid for grant in grants for share in grant.allocation.gpus})
