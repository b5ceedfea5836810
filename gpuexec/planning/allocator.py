"""Makes the grants of a run's workers, for the starting plan and for every worker added later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.errors import InternalError
from gpuexec.hardware.model import Device, Host, Node
from gpuexec.hardware.visible_devices import visible_value
from gpuexec.planning.ledger import Ledger, WorkerSlots
from gpuexec.planning.model import StageDemand, WorkerGrant, next_worker_number
from gpuexec.planning.request import WHOLE_GPU, Request
from gpuexec.policies import GpuPinning
from gpuexec.records import Record


class Allocator(Record):
    """What all workers of a run share: the requests of the stages and the node's resources for them.

    ``requests``: of every stage or group of fused stages, in order; a group has the index of its first stage.
    ``stage_names``: by stage index, their names in worker ids. ``ledger``: as it is before the first worker.
    ``cpu_visible_devices``: CUDA_VISIBLE_DEVICES of a worker without a GPU.
    """

    requests: tuple[Request, ...]
    stage_names: tuple[str, ...]
    ledger: Ledger
    node: Node
    usable_cpus: float
    cpu_visible_devices: str = ""
    pinning: GpuPinning = GpuPinning.UUID

    def request(self, stage_index: int) -> Request:
        """Return the request of a stage, or of the group that it leads."""
        requests = self.requests
        if stage_index < len(requests) and requests[stage_index].stage_index == stage_index:
            return requests[stage_index]  # nothing is fused before it
        return next(request for request in requests if request.stage_index == stage_index)

    def grant(self, stage_index: int, number: int, slots: Sequence[int]) -> WorkerGrant:
        """Return the grant of worker ``number`` of a stage on these slots (() for a worker without a GPU)."""
        request = self.request(stage_index)
        devices = [self.ledger.slots[i].device for i in slots]
        allocation = Allocation(
            gpus=tuple(_share(request, device) for device in devices),
            cpus=request.demand.cpus,
            cuda_visible_devices=visible_value(devices, self.pinning) if devices else self.cpu_visible_devices,
        )
        worker_id = f"{self.stage_names[stage_index]}-{number}"
        return WorkerGrant(worker_id, stage_index, allocation, _affinity(devices, self.node.host))

    def slots_of(self, grant: WorkerGrant) -> WorkerSlots:
        """Return the slots a grant holds. Raises ``InternalError`` for a GPU that this allocator does not have."""
        slots = {slot.device.uuid: i for i, slot in enumerate(self.ledger.slots)}
        try:
            return tuple(slots[share.uuid] for share in grant.allocation.gpus)
        except KeyError as error:
            raise InternalError(f"{grant} is on none of the devices {list(slots)}") from error

    def ledger_with(self, grants: Iterable[WorkerGrant]) -> Ledger:
        """Return what is left while these workers live. Raises ``InternalError`` if they do not fit together."""
        ledger = self.ledger
        for grant in grants:
            ledger = ledger.grant(self.slots_of(grant), self.request(grant.stage_index))
        return ledger

    def without(self, uuids: Collection[str]) -> Allocator:
        """Return the allocator that is left when these devices are out of use."""
        if not uuids:
            return self
        return replace(self, ledger=Ledger([slot for slot in self.ledger.slots if slot.device.uuid not in uuids]))

    def next_number(self, stage_index: int, taken_ids: Collection[str]) -> int:
        """Return the next unused worker number of the stage."""
        return next_worker_number(self.stage_names[stage_index], taken_ids)


def unique_names(demands: Sequence[StageDemand]) -> tuple[str, ...]:
    """Return the stage names for worker ids: a name that occurs again gets a number."""
    taken: set[str] = set()
    names = []
    for demand in demands:
        name, number = demand.name, 1
        while name in taken:
            number += 1
            name = f"{demand.name}#{number}"
        taken.add(name)
        names.append(name)
    return tuple(names)


def _share(request: Request, device: Device) -> GpuShare:
    total = device.memory_total_bytes
    if request.count:
        fraction, memory = 1.0, _left_by_others(device)
    elif request.share:
        left = _left_by_others(device)
        fraction, memory = request.share / WHOLE_GPU, None if left is None else left * request.share // WHOLE_GPU
    else:
        assert total is not None, "memory is never granted on a device of unknown size"
        fraction, memory = max(1, round(request.memory * WHOLE_GPU / total)) / WHOLE_GPU, request.memory
    return GpuShare(device.index, device.uuid, device.name, fraction, memory, total)


def _left_by_others(device: Device) -> int | None:
    """Return the device's size, less what a desktop or other processes use of it."""
    total, free = device.memory_total_bytes, device.memory_free_bytes
    return total if total is None or free is None else min(total, free + (device.memory_reserved_bytes or 0))


def _affinity(devices: Sequence[Device], host: Host) -> tuple[int, ...]:
    """Return the usable CPUs near all of a worker's GPUs; () where there are none, or all of them are."""
    near = set(host.cpus)
    for device in devices:
        if device.cpus:
            near &= set(device.cpus)
    return tuple(sorted(near)) if devices and 0 < len(near) < len(host.cpus) else ()
