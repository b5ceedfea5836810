"""What is still free on each device, in exact integers.

A device of B bytes has B * 1000 units, so that both a thousandth of it and a byte of it are whole numbers
of units. A device of unknown size has 1000 units and takes no requests for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpuexec.errors import InternalError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.plan.request import WHOLE, Request


@dataclass(frozen=True, slots=True)
class Slot:
    """One device's book. ``memory_left``: bytes nobody holds or was promised; ``None``: unknown."""

    device: Device
    capacity: int
    free: int
    memory_left: int | None
    workers: int = 0

    @property
    def untouched(self) -> bool:
        """Whether a worker could have it alone."""
        return self.free == self.capacity and not self.workers

    def units(self, request: Request) -> int | None:
        """Units that a request costs here; ``None`` if it cannot be told."""
        if request.count:
            return self.capacity
        if request.share:
            return request.share * (self.capacity // WHOLE)
        return None if self.device.memory_total_bytes is None else request.memory * WHOLE

    def fits(self, request: Request) -> bool:
        """Whether a request for (a part of) one device can be granted here."""
        mode = self.device.compute_mode
        if mode is ComputeMode.PROHIBITED or (mode is ComputeMode.EXCLUSIVE_PROCESS and self.workers):
            return False
        units = self.units(request)
        if units is None or units > self.free or (request.count and not self.untouched):
            return False
        return not request.memory or (self.memory_left is not None and request.memory <= self.memory_left)


class Ledger:
    """All devices; immutable: `grant` and `release` return a new one."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)

    @classmethod
    def open(cls, devices: Sequence[Device], reserved_thousandths: int = 0) -> Ledger:
        """Begin with everything free, but for a reserve taken from the last devices."""
        slots = [_fresh(device) for device in devices]
        for i in reversed(range(len(slots))):
            taken = min(WHOLE, reserved_thousandths)
            reserved_thousandths -= taken
            slots[i] = replace(slots[i], free=slots[i].free - taken * (slots[i].capacity // WHOLE))
        return cls(slots)

    def grant(self, numbers: Sequence[int], request: Request) -> Ledger:
        """Give a request these slots. Raises ``InternalError`` where it does not fit."""
        slots = list(self.slots)
        for number in numbers:
            slot = slots[number]
            units = slot.units(request)
            if units is None or not slot.fits(request):
                raise InternalError(f"{request} does not fit {slot}")
            left = None if slot.memory_left is None else slot.memory_left - request.memory
            slots[number] = replace(slot, free=slot.free - units, memory_left=left, workers=slot.workers + 1)
        return Ledger(slots)

    def release(self, numbers: Sequence[int], request: Request) -> Ledger:
        """Take back what `grant` gave. Raises ``InternalError`` where nobody can have held it."""
        slots = list(self.slots)
        for number in numbers:
            slot = slots[number]
            units = slot.units(request)
            if units is None or not slot.workers or slot.free + units > slot.capacity:
                raise InternalError(f"{request} is not held of {slot}")
            left = None if slot.memory_left is None else slot.memory_left + request.memory
            slots[number] = replace(slot, free=slot.free + units, memory_left=left, workers=slot.workers - 1)
        return Ledger(slots)


def _fresh(device: Device) -> Slot:
    capacity = (device.memory_total_bytes or 1) * WHOLE
    free = device.memory_free_bytes if device.memory_free_bytes is not None else device.memory_total_bytes
    return Slot(device, capacity, capacity, free)
