"""Which GPUs may be used, given the processes of others on them."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.errors import GpusBusy, ResourcesError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.hardware.tenants import Tenant, Use, is_shared_by_mps, uses_of
from gpuexec.planning.explain import describe
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.model import PlanOptions
from gpuexec.planning.request import WHOLE_GPU
from gpuexec.policies import BusyGpuPolicy
from gpuexec.units import GIB

# Drivers before 510 count their reserve as used and do not say how much it is; it is less than this on every GPU.
_MAX_UNSTATED_RESERVE_BYTES = GIB


def usable_devices(devices: Sequence[Device], options: PlanOptions) -> tuple[list[Device], list[str]]:
    """Return the devices to plan with, and notes on those left out or shared.

    Raises ``ResourcesError`` (policy error) or ``GpusBusy`` (policy wait).
    """
    usable, busy, notes = [], [], []
    for device in devices:
        if device.compute_mode is ComputeMode.PROHIBITED:
            notes.append(f"GPU {device.index} is in compute mode prohibited: no process may use it")
            continue
        holders = _listed(_holders(device, options.busy_memory_fraction)) or _whole_lease(device)
        if holders:
            busy.append(f"{describe(device)}, held by {holders}")
        else:
            usable.append(device)
            notes += _notes_on(device, options.busy_memory_fraction)
    if not busy:
        return usable, notes
    described = "; ".join(busy)
    if options.busy_gpus is BusyGpuPolicy.ERROR:
        raise ResourcesError(f"other processes hold GPUs (busy_gpus='error'): {described}")
    if options.busy_gpus is BusyGpuPolicy.WAIT:
        raise GpusBusy(f"other processes hold GPUs and did not free them in time (busy_gpus='wait'): {described}")
    notes += [f"left out, held by other processes: {text}" for text in busy]
    return usable, notes


def _holders(device: Device, max_used_fraction: float) -> list[Use]:
    """Return who keeps others from computing on a device; nobody if it is usable."""
    uses = uses_of(device)
    has_server = any(use.tenant is Tenant.MPS for use in uses)
    if device.compute_mode is ComputeMode.EXCLUSIVE_PROCESS and not has_server:
        # One process may have a context. Under MPS that is the server; all others are its clients, like ours.
        contexts = {Tenant.COMPUTE, Tenant.RUN, Tenant.SELF}
        return [use for use in uses if use.tenant in contexts and use.processes]
    if device.unified_memory or not device.memory_total_bytes:
        return []  # unified memory is used by the whole system, which does not make the GPU busy
    foreign = [use for use in uses if use.tenant in (Tenant.COMPUTE, Tenant.UNLISTED)]
    limit = max_used_fraction * device.memory_total_bytes
    if device.memory_reserved_bytes is None and all(use.tenant is Tenant.UNLISTED for use in foreign):
        limit = max(limit, _MAX_UNSTATED_RESERVE_BYTES if device.processes is not None else 0)
    return foreign if sum(use.used_bytes or 0 for use in foreign) > limit else []


def _whole_lease(device: Device) -> str:
    """Name the runs that hold leases on all of a device; empty if something is left of it."""
    left = Ledger.open([device]).slots[0]
    if device.leases and (left.free < left.capacity // WHOLE_GPU or left.single):
        return _leaseholders(device)
    return ""


def _leaseholders(device: Device) -> str:
    return ", ".join(f"another gpuexec run ({lease.holder}) that holds {lease}" for lease in device.leases)


def _notes_on(device: Device, noted_fraction: float) -> list[str]:
    """Say with whom the stages share a device, where that matters to them."""
    notes = [f"GPU {device.index} is shared with {_leaseholders(device)}"] if device.leases else []
    if device.compute_mode is ComputeMode.EXCLUSIVE_PROCESS and is_shared_by_mps(device):
        notes.append(f"GPU {device.index} is in exclusive-process mode: several workers share it through MPS")
    uses = [use for use in uses_of(device) if use.tenant in (Tenant.GRAPHICS, Tenant.SELF, Tenant.MPS)]
    held = sum(use.used_bytes or 0 for use in uses)
    if device.memory_total_bytes and held > noted_fraction * device.memory_total_bytes:
        notes.append(f"GPU {device.index} is used beside its other work, which lowers what is free: {_listed(uses)}")
    return notes


def _listed(uses: Sequence[Use]) -> str:
    return "; ".join(use.describe() for use in uses)
