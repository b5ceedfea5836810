"""What is still free on each device, in exact integers.

A device of B bytes has B * 1000 units, so that both a thousandth of it and a byte of it are whole numbers
of units. A device of unknown size has 1000 units and takes no requests for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuexec.errors import InternalError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.hardware.tenants import Tenant, is_shared_by_mps, uses_of
from gpuexec.planning.request import WHOLE_GPU, Request
from gpuexec.records import Record

WorkerSlots = tuple[int, ...]  # positions of one worker's slots in `Ledger.slots`; () for a worker without GPU


class Slot(Record):
    """One device: its ``capacity`` and ``free`` units, and the number of ``workers`` on it.

    ``memory_left``: bytes that no process holds and no worker was promised; ``None`` if unknown.
    """

    device: Device
    capacity: int
    free: int
    memory_left: int | None
    workers: int = 0

    @property
    def single(self) -> bool:
        """Whether only one worker may be here: in exclusive-process mode, unless an MPS server shares it out."""
        return self.device.compute_mode is ComputeMode.EXCLUSIVE_PROCESS and not is_shared_by_mps(self.device)

    @property
    def untouched(self) -> bool:
        """Whether a worker could have the whole device."""
        return self.free == self.capacity and not self.workers

    def units(self, request: Request) -> int | None:
        """Return the units that a request costs here; ``None`` if the device's size is needed but unknown."""
        if request.count:
            return self.capacity
        if request.share:
            return request.share * (self.capacity // WHOLE_GPU)
        return None if self.device.memory_total_bytes is None else request.memory * WHOLE_GPU

    def fits(self, request: Request) -> bool:
        """Return whether a request for one device, or a part of one, can be granted here."""
        if self.device.compute_mode is ComputeMode.PROHIBITED or (self.single and self.workers):
            return False
        units = self.units(request)
        if units is None or units > self.free or (request.count and not self.untouched):
            return False
        return not request.memory or (self.memory_left is not None and request.memory <= self.memory_left)


class Ledger:
    """The free shares of all devices. Immutable: `grant` and `release` return a new ledger."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)

    @classmethod
    def open(cls, devices: Sequence[Device], reserved_thousandths: int = 0) -> Ledger:
        """Make a ledger with everything free, except a reserve that is taken from the last devices."""
        slots = [_free_slot(device) for device in devices]
        for i in reversed(range(len(slots))):
            taken = min(WHOLE_GPU, reserved_thousandths)
            reserved_thousandths -= taken
            slots[i] = replace(slots[i], free=slots[i].free - taken * (slots[i].capacity // WHOLE_GPU))
        return cls(slots)

    def grant(self, worker_slots: Sequence[int], request: Request) -> Ledger:
        """Give these slots to a worker. Raises ``InternalError`` where the request does not fit."""
        slots = list(self.slots)
        for i in worker_slots:
            slot = slots[i]
            units = slot.units(request)
            if units is None or not slot.fits(request):
                raise InternalError(f"{request} does not fit {slot}")
            left = None if slot.memory_left is None else slot.memory_left - request.memory
            slots[i] = replace(slot, free=slot.free - units, memory_left=left, workers=slot.workers + 1)
        return Ledger(slots)

    def release(self, worker_slots: Sequence[int], request: Request) -> Ledger:
        """Take back what `grant` gave. Raises ``InternalError`` where no worker can have held it."""
        slots = list(self.slots)
        for i in worker_slots:
            slot = slots[i]
            units = slot.units(request)
            if units is None or not slot.workers or slot.free + units > slot.capacity:
                raise InternalError(f"{request} is not held on {slot}")
            left = None if slot.memory_left is None else slot.memory_left + request.memory
            slots[i] = replace(slot, free=slot.free + units, memory_left=left, workers=slot.workers - 1)
        return Ledger(slots)


def _free_slot(device: Device) -> Slot:
    total, free = device.memory_total_bytes, device.memory_free_bytes
    capacity = (total or 1) * WHOLE_GPU
    memory_left = free if free is not None else total
    leased = sum(
        lease.thousandths * (capacity // WHOLE_GPU) + lease.memory_bytes * WHOLE_GPU for lease in device.leases
    )
    if device.leases and total is not None and memory_left is not None:
        # What other runs use of their leases is no longer free, and the rest of the leases is not for us either.
        others = sum(use.used_bytes or 0 for use in uses_of(device) if use.tenant is not Tenant.RUN)
        memory_left = max(0, min(memory_left, total - others - sum(lease.bytes_of(total) for lease in device.leases)))
    return Slot(device, capacity, free=max(0, capacity - leased), memory_left=memory_left)
