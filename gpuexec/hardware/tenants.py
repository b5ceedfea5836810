"""Who uses the memory of a device, as far as NVML says: told apart, sized and named. Pure.

Only *compute* memory of others makes a GPU busy. A desktop, the driver's own reserve, this process and an MPS server
take memory too, which then is not free, but they do not keep anybody else from computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from gpuexec.hardware.model import Device, GpuProcess
from gpuexec.hardware.mps import PROCESS_NAME
from gpuexec.records import Record
from gpuexec.units import GIB


class Tenant(StrEnum):
    """Who holds memory on a device."""

    COMPUTE = "other compute processes"
    RUN = "processes of gpuexec runs that hold leases"
    GRAPHICS = "graphics processes"
    SELF = "this process"
    MPS = "the MPS server"
    UNLISTED = "processes that NVML does not list"
    DRIVER = "the driver"


class Use(Record):
    """What one kind of tenant holds on a device; ``used_bytes`` is ``None`` where NVML gives no size."""

    tenant: Tenant
    used_bytes: int | None
    processes: tuple[GpuProcess, ...] = ()

    def describe(self) -> str:
        """Name the tenant, its processes and what it holds."""
        size = "size unknown" if self.used_bytes is None else f"{self.used_bytes / GIB:.2f} GiB"
        named = [f"{p.name} (pid {p.pid})" if p.name else f"pid {p.pid}" for p in self.processes[:_MAX_NAMED]]
        more = len(self.processes) - len(named)
        who = ", ".join(named) + (f" and {more} more" if more else "")
        return f"{self.tenant}" + (f": {who}" if who else "") + f", {size}"


_MAX_NAMED = 4


def uses_of(device: Device) -> tuple[Use, ...]:
    """Return what is in use on a device, by tenant; those that hold nothing are left out."""
    by_tenant: dict[Tenant, list[GpuProcess]] = {}
    for process in _distinct(device.processes or ()):
        by_tenant.setdefault(tenant_of(process), []).append(process)
    uses = [Use(tenant, _sum(processes), tuple(processes)) for tenant, processes in by_tenant.items()]
    if device.memory_reserved_bytes:
        uses.append(Use(Tenant.DRIVER, device.memory_reserved_bytes))
    rest = _unexplained(device, uses)
    if rest and device.leases and not any(use.tenant is Tenant.RUN for use in uses):
        leased = _of_leases(rest, device)
        uses.append(Use(Tenant.RUN, leased))
        rest -= leased
    if rest:
        uses = _attribute(rest, uses)
    order = list(Tenant)
    return tuple(sorted(uses, key=lambda use: order.index(use.tenant)))


def tenant_of(process: GpuProcess) -> Tenant:
    """Return which kind of tenant a process is."""
    if process.is_this_process:
        return Tenant.SELF
    if process.holds_lease:
        return Tenant.RUN
    if process.name is not None and process.name.rpartition("/")[2].startswith(PROCESS_NAME):
        return Tenant.MPS
    return Tenant.GRAPHICS if process.kind == "graphics" else Tenant.COMPUTE


def is_shared_by_mps(device: Device) -> bool:
    """Return whether an MPS server computes on a device for its clients, or will when the first of them comes."""
    return device.mps or any(tenant_of(process) is Tenant.MPS for process in device.processes or ())


def _distinct(processes: Iterable[GpuProcess]) -> list[GpuProcess]:
    """Return one entry per process: one that both computes and draws is listed twice, with the same memory."""
    listed = list(processes)
    computing = {process.pid for process in listed if process.kind != "graphics"}
    return [process for process in listed if process.kind != "graphics" or process.pid not in computing]


def _sum(processes: Sequence[GpuProcess]) -> int | None:
    sizes = [process.used_bytes for process in processes]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _unexplained(device: Device, uses: Sequence[Use]) -> int:
    """Return the bytes in use that no tenant of a known size accounts for."""
    if device.memory_total_bytes is None or device.memory_free_bytes is None:
        return 0
    used = device.memory_total_bytes - device.memory_free_bytes
    return max(0, used - sum(use.used_bytes or 0 for use in uses))


def _attribute(rest: int, uses: list[Use]) -> list[Use]:
    """Give what is left over to the first kind of tenant whose size is not known, else to processes not listed."""
    for tenant in (Tenant.COMPUTE, Tenant.RUN, Tenant.MPS, Tenant.SELF, Tenant.GRAPHICS):
        for i, use in enumerate(uses):
            if use.tenant is tenant and use.used_bytes is None:
                return [*uses[:i], Use(tenant, rest, use.processes), *uses[i + 1 :]]
    return [*uses, Use(Tenant.UNLISTED, rest)]


def _of_leases(rest: int, device: Device) -> int:
    """Return how much of what nobody is listed for may be the leaseholders', as in containers that hide processes."""
    held = sum(lease.bytes_of(device.memory_total_bytes or 0) for lease in device.leases)
    return min(rest, held)
