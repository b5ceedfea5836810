"""From a place in the ledger to a worker's grant, when the plan is made and whenever a worker is added."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.errors import InternalError
from gpuexec.hardware.model import Device, Host, Node
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.model import StageDemand, WorkerGrant
from gpuexec.plan.request import WHOLE, Request


@dataclass(frozen=True, slots=True)
class Allocator:
    """What all workers of a run share in: the stages' requests and what the node has for them.

    ``ledger`` is the one before the first worker; ``names`` are the stages' as worker ids have them;
    ``shown`` is what a worker without a GPU finds in CUDA_VISIBLE_DEVICES.
    """

    requests: tuple[Request, ...]
    names: tuple[str, ...]
    ledger: Ledger
    node: Node
    usable_cpus: float
    shown: str = ""

    def grant(self, stage: int, number: int, place: Sequence[int]) -> WorkerGrant:
        """What worker ``number`` of a stage gets on these slots (() for a worker without GPU)."""
        request = self.requests[stage]
        devices = [self.ledger.slots[i].device for i in place]
        allocation = Allocation(
            gpus=tuple(_share(request, device) for device in devices),
            cpus=request.demand.cpus,
            cuda_visible_devices=",".join(device.uuid for device in devices) if devices else self.shown,
        )
        return WorkerGrant(f"{self.names[stage]}-{number}", stage, allocation, _affinity(devices, self.node.host))

    def place_of(self, grant: WorkerGrant) -> tuple[int, ...]:
        """The slots a grant holds. Raises ``InternalError`` for a GPU that this room does not have."""
        slots = {slot.device.uuid: i for i, slot in enumerate(self.ledger.slots)}
        try:
            return tuple(slots[share.uuid] for share in grant.allocation.gpus)
        except KeyError as error:
            raise InternalError(f"{grant} is of no device in {list(slots)}") from error

    def ledger_with(self, grants: Iterable[WorkerGrant]) -> Ledger:
        """What is left while these workers live. Raises ``InternalError`` if they never fitted."""
        ledger = self.ledger
        for grant in grants:
            ledger = ledger.grant(self.place_of(grant), self.requests[grant.stage_index])
        return ledger

    def without(self, uuids: Collection[str]) -> Allocator:
        """The room that is left when these devices are out of use."""
        if not uuids:
            return self
        return replace(self, ledger=Ledger([slot for slot in self.ledger.slots if slot.device.uuid not in uuids]))

    def next_number(self, stage: int, taken: Collection[str]) -> int:
        """A number that makes none of the ids ``taken``, and greater than the stage's in it."""
        name = self.names[stage]
        used = [rest for before, _, rest in (worker_id.rpartition("-") for worker_id in taken) if before == name]
        return max((int(number) for number in used), default=-1) + 1


def unique_names(demands: Sequence[StageDemand]) -> tuple[str, ...]:
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
    return tuple(names)


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
