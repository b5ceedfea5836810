"""From demands and devices to the starting plan. Deterministic: the same input gives the same plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gpuexec.errors import GpusBusy, ResourcesError
from gpuexec.hardware.model import Device, Node
from gpuexec.hardware.visible_devices import visible_value
from gpuexec.planning import explain
from gpuexec.planning.allocator import Allocator, unique_names
from gpuexec.planning.busy import usable_devices
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.model import Phase, Plan, PlanOptions, StageDemand, StagePlan
from gpuexec.planning.placement import StagePlacement, place_minimum, place_stages
from gpuexec.planning.request import WHOLE_GPU, Request, request_of
from gpuexec.policies import BusyGpuPolicy, GpuPinning


def make_allocator(
    demands: Sequence[StageDemand],
    devices: Sequence[Device],
    node: Node,
    options: PlanOptions,
    *,
    no_devices_reason: str | None = None,
    device_notes: Sequence[str] = (),
    groups: Sequence[Sequence[int]] | None = None,
) -> tuple[Allocator, tuple[str, ...]]:
    """Make the demands exact and check that every stage can run here. Also return notes for the user.

    ``no_devices_reason``: why ``devices`` is empty; ``device_notes``: what the user should know about them.
    ``groups``: the stages of each group of fused stages, by index; the demand of the first is that of the group. By
    default every stage is alone.

    Raises ``ResourcesError`` for a stage that can never run here, ``GpusBusy`` while the policy is to wait for
    GPUs, ``ConfigurationError`` for a demand that has no meaning.
    """
    leads = range(len(demands)) if groups is None else [group[0] for group in groups]
    requests = tuple(request_of(i, demands[i]) for i in leads)
    usable_cpus = node.host.usable_cpus - options.reserved_cpus
    if usable_cpus <= 0:
        raise ResourcesError(
            f"reserved_cpus={options.reserved_cpus:g} leaves none of the {node.host.usable_cpus:g} usable CPUs"
        )
    needs_gpus = any(request.uses_gpu for request in requests)
    usable, busy_notes = usable_devices(devices, options) if needs_gpus else ([], [])
    notes = (*device_notes, *busy_notes, *_pinning_notes(usable, options.pinning))
    ledger = Ledger.open(usable, math.floor(options.reserved_gpus * WHOLE_GPU + 0.5))
    for request in requests:
        if request.demand.cpus > usable_cpus:
            raise explain.refuse_cpus(request, usable_cpus, node.host.usable_cpus, options.reserved_cpus)
        if request.uses_gpu and place_minimum([request], ledger, node) is None:
            refusal = explain.refuse_gpus(request, ledger, notes, no_devices_reason)
            if options.busy_gpus is BusyGpuPolicy.WAIT and any(slot.device.leases for slot in ledger.slots):
                raise GpusBusy(f"other runs did not free their shares in time (busy_gpus='wait'): {refusal}")
            raise refusal
    allocator = Allocator(
        requests=requests,
        stage_names=unique_names(demands),
        ledger=ledger,
        node=node,
        usable_cpus=usable_cpus,
        cpu_visible_devices=visible_value(devices, options.pinning) if options.cpu_stages_see_gpus else "",
        pinning=options.pinning,
    )
    return allocator, notes


def plan_phases(allocator: Allocator, notes: Sequence[str] = (), groups: Sequence[Sequence[int]] | None = None) -> Plan:
    """Plan the run: its phases, and the workers that each stage may start with. ``notes`` come first in the plan's.

    ``groups``: as given to `make_allocator`.
    """
    fused = {group[0]: tuple(group[1:]) for group in groups or ()}
    cut = cut_into_phases(allocator.requests, allocator.ledger, allocator.node)
    phases = []
    for requests in cut:
        placements = place_stages(requests, allocator.ledger, allocator.node, allocator.usable_cpus)
        phases.append(Phase(tuple(_stage_plan(placement, allocator, fused) for placement in placements)))
    return Plan(tuple(phases), (*notes, *_notes(cut, allocator.requests, allocator.usable_cpus)))


def cut_into_phases(requests: Sequence[Request], ledger: Ledger, node: Node) -> list[list[Request]]:
    """Cut a pipeline into phases: as many stages as fit the devices together, then the next ones.

    Every stage must fit alone. Taking as many stages as possible each time gives the fewest phases, because every
    part of a set of stages that fits also fits.
    """
    phases: list[list[Request]] = []
    for request in requests:
        if phases and place_minimum([*phases[-1], request], ledger, node) is not None:
            phases[-1].append(request)
        else:
            phases.append([request])
    return phases


def _stage_plan(placement: StagePlacement, allocator: Allocator, fused: Mapping[int, tuple[int, ...]]) -> StagePlan:
    request = placement.request
    return StagePlan(
        stage_index=request.stage_index,
        name=request.demand.name,
        workers=tuple(allocator.grant(request.stage_index, n, slots) for n, slots in enumerate(placement.workers)),
        has_fixed_count=request.demand.num_workers is not None,
        reason=placement.reason,
        fused=fused.get(request.stage_index, ()),
        at_first=request.demand.at_first,
        fewest=request.demand.fewest,
    )


def _pinning_notes(devices: Sequence[Device], pinning: GpuPinning) -> list[str]:
    slices = [device for device in devices if device.is_mig]
    if pinning is not GpuPinning.INDEX or not slices:
        return []
    return [f"gpu_pinning='index': CUDA has no numbers for {len(slices)} MIG slice(s), so their workers get UUIDs"]


def _notes(phases: Sequence[Sequence[Request]], requests: Sequence[Request], usable_cpus: float) -> list[str]:
    notes = []
    if len(phases) > 1:
        parts = " | ".join(", ".join(request.demand.name for request in phase) for phase in phases)
        notes.append(
            f"the stages' GPU needs do not fit at once: {len(phases)} phases, one after the other ({parts}); "
            "what passes from one to the next waits in memory up to queue_bytes, and beyond that in spill_dir"
        )
    for request in requests:
        count, fixed = request.demand.fewest, request.demand.num_workers
        if count > 1 and count * request.demand.cpus > usable_cpus:
            asked = "min_workers" if fixed is None else "num_workers()"
            notes.append(
                f"stage {request.demand.name!r}: {asked}={count} × cpus={request.demand.cpus:g} is more than "
                f"the {usable_cpus:g} usable CPUs; its workers will share them"
            )
    return notes
