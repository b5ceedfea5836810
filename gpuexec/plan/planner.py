"""From demands and devices to a plan. Pure and deterministic: the same input gives the same plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.errors import ResourcesError
from gpuexec.hardware.model import Device, Host, Node
from gpuexec.plan import explain, phases
from gpuexec.plan.busy import GpusBusy, usable_devices
from gpuexec.plan.counts import Crowd, crowds, least
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.model import Phase, Plan, PlanOptions, StageDemand, StagePlan, WorkerGrant
from gpuexec.plan.request import WHOLE, Request, request_of

__all__ = ["GpusBusy", "make_plan"]


def make_plan(
    demands: Sequence[StageDemand],
    devices: Sequence[Device],
    node: Node,
    options: PlanOptions,
    *,
    no_devices_reason: str | None = None,
    device_notes: Sequence[str] = (),
) -> Plan:
    """Plan all stages of a pipeline on a node.

    ``no_devices_reason``: why ``devices`` is empty; ``device_notes``: what the user should know about them.

    Raises ``ResourcesError`` for a stage that can never run here, ``GpusBusy`` while GPUs are to be waited
    for, ``ConfigurationError`` for a demand that means nothing.
    """
    requests = [request_of(i, demand) for i, demand in enumerate(demands)]
    usable_cpus = node.host.usable_cpus - options.reserved_cpus
    if usable_cpus <= 0:
        raise ResourcesError(
            f"reserved_cpus={options.reserved_cpus:g} leaves none of the {node.host.usable_cpus:g} usable CPUs"
        )
    asks = any(request.uses_gpu for request in requests)
    usable, busy_notes = usable_devices(devices, options) if asks else ([], [])
    notes = [*device_notes, *busy_notes]
    ledger = Ledger.open(usable, math.floor(options.reserved_gpus * WHOLE + 0.5))
    for request in requests:
        if request.demand.cpus > usable_cpus:
            raise explain.refuse_cpus(request, usable_cpus, node.host.usable_cpus, options.reserved_cpus)
        if request.uses_gpu and least([request], ledger, node) is None:
            raise explain.refuse_gpus(request, ledger, notes, no_devices_reason)
    cut = phases.cut(requests, ledger, node)
    names = _unique_names(demands)
    shown = ",".join(device.uuid for device in devices) if options.cpu_stages_see_gpus else ""
    planned = tuple(
        Phase(
            tuple(
                _stage_plan(crowd, names, ledger, node.host, shown) for crowd in crowds(part, ledger, node, usable_cpus)
            )
        )
        for part in cut
    )
    return Plan(planned, (*notes, *_notes(cut, requests, usable_cpus)))


def _stage_plan(crowd: Crowd, names: Sequence[str], ledger: Ledger, host: Host, shown: str) -> StagePlan:
    request = crowd.request
    workers = []
    for number, place in enumerate(crowd.places):
        devices = [ledger.slots[i].device for i in place]
        allocation = Allocation(
            gpus=tuple(_share(request, device) for device in devices),
            cpus=request.demand.cpus,
            cuda_visible_devices=",".join(device.uuid for device in devices) if devices else shown,
        )
        workers.append(
            WorkerGrant(f"{names[request.stage]}-{number}", request.stage, allocation, _affinity(devices, host))
        )
    fixed = request.demand.num_workers is not None
    return StagePlan(request.stage, request.demand.name, tuple(workers), fixed, crowd.reason)


def _share(request: Request, device: Device) -> GpuShare:
    total = device.memory_total_bytes
    if request.count:
        fraction, memory = 1.0, total
    elif request.share:
        fraction, memory = request.share / WHOLE, None if total is None else total * request.share // WHOLE
    else:
        assert total is not None, "memory is never granted on a device of unknown size"
        fraction, memory = max(1, round(request.memory * WHOLE / total)) / WHOLE, request.memory
    return GpuShare(device.index, device.uuid, device.name, fraction, memory)


def _affinity(devices: Sequence[Device], host: Host) -> tuple[int, ...]:
    """CPUs near all of a worker's GPUs, of those we may use; () where that says nothing."""
    near = set(host.cpus)
    for device in devices:
        if device.cpus:
            near &= set(device.cpus)
    return tuple(sorted(near)) if devices and 0 < len(near) < len(host.cpus) else ()


def _unique_names(demands: Sequence[StageDemand]) -> list[str]:
    """Names for worker ids: a stage name that occurs again gets a number."""
    taken: set[str] = set()
    names = []
    for demand in demands:
        name, number = demand.name, 1
        while name in taken:
            number += 1
            name = f"{demand.name}#{number}"
        taken.add(name)
        names.append(name)
    return names


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
