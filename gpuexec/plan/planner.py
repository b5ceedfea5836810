"""From demands and devices to a plan. Pure and deterministic: the same input gives the same plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpuexec.errors import ResourcesError
from gpuexec.hardware.model import Device, Node
from gpuexec.plan import explain, phases
from gpuexec.plan.busy import usable_devices
from gpuexec.plan.counts import StagePlacement, place_minimum, place_stages
from gpuexec.plan.grants import Allocator, unique_names
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.model import Phase, Plan, PlanOptions, StageDemand, StagePlan
from gpuexec.plan.request import WHOLE, Request, request_of

__all__ = ["make_allocator", "make_plan", "plan_in"]


def make_plan(
    demands: Sequence[StageDemand],
    devices: Sequence[Device],
    node: Node,
    options: PlanOptions,
    *,
    no_devices_reason: str | None = None,
    device_notes: Sequence[str] = (),
) -> Plan:
    """Plan all stages of a pipeline on a node; see `make_allocator` for the arguments and what is raised."""
    room, notes = make_allocator(
        demands, devices, node, options, no_devices_reason=no_devices_reason, device_notes=device_notes
    )
    return plan_in(room, notes)


def make_allocator(
    demands: Sequence[StageDemand],
    devices: Sequence[Device],
    node: Node,
    options: PlanOptions,
    *,
    no_devices_reason: str | None = None,
    device_notes: Sequence[str] = (),
) -> tuple[Allocator, tuple[str, ...]]:
    """Make the demands exact and open the book on what they share; also notes for the user.

    ``no_devices_reason``: why ``devices`` is empty; ``device_notes``: what the user should know about them.

    Raises ``ResourcesError`` for a stage that can never run here, ``GpusBusy`` while GPUs are to be waited
    for, ``ConfigurationError`` for a demand that means nothing.
    """
    requests = tuple(request_of(i, demand) for i, demand in enumerate(demands))
    usable_cpus = node.host.usable_cpus - options.reserved_cpus
    if usable_cpus <= 0:
        raise ResourcesError(
            f"reserved_cpus={options.reserved_cpus:g} leaves none of the {node.host.usable_cpus:g} usable CPUs"
        )
    asks = any(request.uses_gpu for request in requests)
    usable, busy_notes = usable_devices(devices, options) if asks else ([], [])
    notes = (*device_notes, *busy_notes)
    ledger = Ledger.open(usable, math.floor(options.reserved_gpus * WHOLE + 0.5))
    for request in requests:
        if request.demand.cpus > usable_cpus:
            raise explain.refuse_cpus(request, usable_cpus, node.host.usable_cpus, options.reserved_cpus)
        if request.uses_gpu and place_minimum([request], ledger, node) is None:
            raise explain.refuse_gpus(request, ledger, notes, no_devices_reason)
    shown = ",".join(device.uuid for device in devices) if options.cpu_stages_see_gpus else ""
    return Allocator(requests, unique_names(demands), ledger, node, usable_cpus, shown), notes


def plan_in(room: Allocator, notes: Sequence[str] = ()) -> Plan:
    """Plan what a survey found possible: the phases, and where their workers may start."""
    cut = phases.cut(room.requests, room.ledger, room.node)
    planned = tuple(
        Phase(
            tuple(
                _stage_plan(placement, room)
                for placement in place_stages(part, room.ledger, room.node, room.usable_cpus)
            )
        )
        for part in cut
    )
    return Plan(planned, (*notes, *_notes(cut, room.requests, room.usable_cpus)))


def _stage_plan(placement: StagePlacement, room: Allocator) -> StagePlan:
    request = placement.request
    workers = tuple(room.grant(request.stage, number, place) for number, place in enumerate(placement.places))
    fixed = request.demand.num_workers is not None
    return StagePlan(request.stage, request.demand.name, workers, fixed, placement.reason)


def _notes(cut: Sequence[Sequence[Request]], requests: Sequence[Request], usable_cpus: float) -> list[str]:
    notes = []
    if len(cut) > 1:
        parts = " | ".join(", ".join(request.demand.name for request in part) for part in cut)
        notes.append(
            f"the stages' GPU needs do not fit at once: {len(cut)} phases, one after the other ({parts}); "
            "what passes from one phase to the next is kept in memory"
        )
    for request in requests:
        count = request.demand.num_workers
        if count is not None and count * request.demand.cpus > usable_cpus:
            notes.append(
                f"stage {request.demand.name!r}: num_workers()={count} × cpus={request.demand.cpus:g} is more than "
                f"the {usable_cpus:g} usable CPUs; its workers will share them"
            )
    return notes
