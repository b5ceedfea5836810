"""What a report says about the room of its run. Every run writes it, and few are read: reading is in `report.room`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuexec.planning.ledger import Ledger


def room_as_facts(ledger: Ledger, usable_cpus: float) -> dict[str, Any]:
    """Return what a report says about the room of its run; `report.room.room_of` reads it back."""
    devices = [
        {
            "index": slot.device.index,
            "uuid": slot.device.uuid,
            "memory_bytes": slot.device.memory_total_bytes,
            "free_share": slot.free / slot.capacity,
            "memory_left_bytes": slot.memory_left,
            "is_mig": slot.device.is_mig,
            "single_worker": slot.single,
        }
        for slot in ledger.slots
    ]
    return {"usable_cpus": usable_cpus, "devices": devices}
