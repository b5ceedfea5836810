"""Frozen values that describe a node. Everything above ``hardware/`` works on these, never on NVML.

A reading that could not be taken is ``None``, and the owner's ``unknown`` mapping has the reason under the field's
name. It is never 0 and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import Any

from gpuexec.records import Record
from gpuexec.units import GIB


class ComputeMode(StrEnum):
    """Who may open a compute context (nvmlComputeMode_t)."""

    DEFAULT = "default"
    EXCLUSIVE_PROCESS = "exclusive_process"
    PROHIBITED = "prohibited"


class LinkKind(IntEnum):
    """How two GPUs reach each other; a smaller value is closer."""

    NVLINK = 0
    SAME_BOARD = 10
    SINGLE_SWITCH = 20
    MULTIPLE_SWITCHES = 30
    HOST_BRIDGE = 40
    NUMA_NODE = 50
    SYSTEM = 60
    UNKNOWN = 70


class Link(Record):
    """The path between GPUs ``a`` < ``b`` (NVML indices); ``nvlinks`` counts active NVLinks."""

    a: int
    b: int
    kind: LinkKind
    nvlinks: int = 0


class GpuProcess(Record):
    """A process that holds memory on a GPU. Its pid is the one NVML reports, possibly of another pid namespace.

    ``is_this_process``: it is the one that read the list. ``holds_lease``: it belongs to another run of gpuexec.
    """

    pid: int
    used_bytes: int | None
    kind: str  # "compute" or "graphics"
    name: str | None = None
    is_this_process: bool = False
    holds_lease: bool = False


class Holder(Record):
    """A run of gpuexec on this machine: its driver's pid, its pipeline, and its user (``None``: this one).

    ``elsewhere``: the pid is of another pid namespace, as in another container. Pid 0: it is not known.
    """

    pid: int
    pipeline: str | None = None
    user: str | None = None
    elsewhere: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Holder:
        """Return the holder that a file of leases names."""
        pipeline = fields.get("pipeline")
        name = pipeline if isinstance(pipeline, str) else None
        return cls(fields["pid"], name, fields.get("user"), bool(fields.get("elsewhere")))

    def __str__(self) -> str:
        parts = [f"pid {self.pid}" if self.pid else "pid unknown"]
        parts += [f"pipeline {self.pipeline!r}"] if self.pipeline is not None else []
        parts += [f"user {self.user}"] if self.user is not None else []
        parts += ["in another pid namespace"] if self.elsewhere and self.pid else []
        return ", ".join(parts)


class Lease(Record):
    """What another run of gpuexec holds of a device: thousandths of it, and bytes."""

    holder: Holder
    thousandths: int
    memory_bytes: int

    def bytes_of(self, total: int) -> int:
        """Return what it comes to on a device of this size."""
        return total * self.thousandths // 1000 + self.memory_bytes

    def __str__(self) -> str:
        if self.thousandths >= 1000:
            return "all of it"
        parts = [f"{self.thousandths / 1000:g} of it"] if self.thousandths else []
        parts += [f"{self.memory_bytes / GIB:.2f} GiB"] if self.memory_bytes else []
        return " and ".join(parts) or "it"


class MigSlice(Record):
    """One MIG device, which CUDA sees as a GPU of its own."""

    index: int  # among its parent's slices
    uuid: str
    profile: str | None  # e.g. "1g.10gb"
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    memory_free_bytes: int | None
    gpu_instance_id: int | None
    compute_instance_id: int | None
    processes: tuple[GpuProcess, ...] | None = None
    memory_reserved_bytes: int | None = None
    leases: tuple[Lease, ...] = ()  # where they were asked for
    unknown: Mapping[str, str] = field(default_factory=dict, hash=False)


class Gpu(Record):
    """One physical GPU as NVML describes it. A ``lost`` GPU keeps its index and whatever is still readable."""

    index: int
    uuid: str | None
    name: str | None = None
    pci_bus_id: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None  # without the driver's own reserve, where NVML reports it separately
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None  # the driver's own; None where it is part of the used bytes
    unified_memory: bool = False
    compute_capability: tuple[int, int] | None = None
    compute_mode: ComputeMode | None = None
    utilization_percent: int | None = None
    numa_node: int | None = None
    cpu_affinity: tuple[int, ...] | None = None
    mig_enabled: bool | None = None
    mig_slices: tuple[MigSlice, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    leases: tuple[Lease, ...] = ()  # where they were asked for
    lost: bool = False
    unknown: Mapping[str, str] = field(default_factory=dict, hash=False)


class LeaseAmount(Record):
    """How much of one device a run holds: thousandths of it, and bytes beside them."""

    thousandths: int = 0
    memory_bytes: int = 0

    def covers(self, other: LeaseAmount) -> bool:
        """Return whether ``other`` is no more than this."""
        return self.thousandths >= other.thousandths and self.memory_bytes >= other.memory_bytes

    def joined(self, other: LeaseAmount) -> LeaseAmount:
        """Return what covers both."""
        return LeaseAmount(max(self.thousandths, other.thousandths), max(self.memory_bytes, other.memory_bytes))


class Device(Record):
    """A whole GPU or one MIG slice, whichever CUDA can select, as the planner sees it."""

    index: int  # NVML index of the GPU; of the parent GPU for a slice
    uuid: str  # what CUDA_VISIBLE_DEVICES contains
    name: str
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    compute_mode: ComputeMode | None = None
    numa_node: int | None = None
    cpus: tuple[int, ...] = ()  # CPUs close to it; () when unknown
    is_mig: bool = False
    unified_memory: bool = False
    memory_reserved_bytes: int | None = None  # the driver's own; None where NVML does not say it
    processes: tuple[GpuProcess, ...] | None = None  # those that hold memory on it now
    leases: tuple[Lease, ...] = ()  # of other runs
    mps: bool = False  # a control daemon of MPS runs, or will: its server takes the device when its first client comes


class Host(Record):
    """What this process may use of the machine's CPUs and memory."""

    hostname: str
    cpus: tuple[int, ...]  # ids in the affinity mask
    cpu_quota: float | None  # cgroup CPU bandwidth in CPUs; None: unlimited
    memory_total_bytes: int | None  # the smaller of RAM and the cgroup limit
    memory_available_bytes: int | None
    granted_cpus: float | None = None  # the user's own number, instead of all that

    @property
    def usable_cpus(self) -> float:
        """CPUs this process can keep busy: the user's number, or the affinity mask's, capped by the cgroup quota."""
        return self.granted_cpus or min(float(len(self.cpus)), self.cpu_quota or float("inf"))


class Node(Record):
    """One machine: host, GPUs and the links between them. ``no_gpus_reason`` says why ``gpus`` is empty.

    ``hang``: the call into the driver library that did not return. What was to be read after it is unknown.
    """

    host: Host
    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    no_gpus_reason: str | None = None
    hang: str | None = None

    def link_between(self, a: int, b: int) -> Link:
        """Return the link between two GPUs by NVML index (``UNKNOWN`` if it was not readable)."""
        low, high = min(a, b), max(a, b)
        for link in self.links:
            if (link.a, link.b) == (low, high):
                return link
        return Link(low, high, LinkKind.UNKNOWN)
