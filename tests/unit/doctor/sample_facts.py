"""Facts of a machine on which every check passes, and parts of them that are otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpuexec.doctor.facts import (
    ContainerFacts,
    CpuFacts,
    DriverFacts,
    Facts,
    Folder,
    KernelLog,
    Limit,
    LimitFacts,
    MemoryFacts,
    MpsFacts,
    OfferFacts,
    PackageFacts,
    Space,
    TargetFacts,
    TorchDevice,
    TorchFacts,
)
from gpuexec.hardware.health import GpuHealth, HealthListing
from gpuexec.hardware.host_memory import HostMemory
from gpuexec.hardware.model import ComputeMode, Gpu, Host, Link, LinkKind, Node

GIB = 1024**3
CPUS = tuple(range(16))


def uuid(number: int) -> str:
    return f"GPU-{number}"


def gpu(number: int = 0, **changes: Any) -> Gpu:
    fields = {
        "name": "NVIDIA H100",
        "pci_bus_id": f"00000000:{0x10 + number:X}:00.0",
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": 0,
        "memory_free_bytes": 80 * GIB,
        "memory_reserved_bytes": 0,
        "compute_capability": (9, 0),
        "compute_mode": ComputeMode.DEFAULT,
        "numa_node": 0,
        "cpu_affinity": CPUS,
        "mig_enabled": False,
        "processes": (),
    }
    return Gpu(number, uuid(number), **{**fields, **changes})


def health(number: int = 0, **changes: Any) -> GpuHealth:
    fields = {
        "uuid": uuid(number),
        "persistence_mode": True,
        "mig_enabled": False,
        "mig_pending": False,
        "ecc_enabled": True,
        "ecc_pending": True,
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "ecc_uncorrected_ever": 0,
        "remapped_correctable": 0,
        "remapped_uncorrectable": 0,
        "remap_pending": 0,
        "remap_failed": 0,
        "recovery_action": 0,
        "pcie_width": 16,
        "pcie_max_width": 16,
        "pcie_generation": 1,
        "pcie_max_generation": 5,
        "clock_reasons": ("idle",),
        "throttled_ns": {"power cap": 10**12},
    }
    return GpuHealth(number, **{**fields, **changes})


HOST = Host("box", CPUS, None, 64 * GIB, 60 * GIB)
LINK = Link(0, 1, LinkKind.NVLINK, 18)
GPUS = (gpu(0), gpu(1))
DRIVER = DriverFacts(
    node=Node(HOST, GPUS, (LINK,), "580.95.05", "13.0"),
    health=HealthListing((health(0), health(1))),
    kernel_module="580.95.05",
    pci_gpus=("0000:10:00.0", "0000:11:00.0"),
    card_lanes={"0000:10:00.0": 16, "0000:11:00.0": 16},
)
TORCH = TorchFacts("2.9.0", "13.0", True, (TorchDevice("NVIDIA H100", (9, 0)),) * 2, ("sm_80", "sm_90"))
CPU_FACTS = CpuFacts(HOST, None, {0: CPUS}, (0,), (("performance", "intel_pstate", "performance"),), "tsc")
MEMORY = MemoryFacts(
    closest=HostMemory(64 * GIB, 4 * GIB, "the machine"),
    oom_kills=0,
    swap_total=8 * GIB,
    swap_free=8 * GIB,
    overcommit=0,
    commit_limit=72 * GIB,
    committed=4 * GIB,
    shm=Space(32 * GIB, 32 * GIB),
)
LIMITS = LimitFacts(Limit(65_536, 1_048_576, 30), Limit(100_000, 100_000, 300), Limit(None), uid=1000)
OFFERS = OfferFacts(None, None, "Linux 6.8.0", "3.12.4")
PACKAGES = PackageFacts({"gpuexec": "0.1.0", "nvidia-ml-py": "13.580", "torch": "2.9.0"})
FOLDERS = (
    Folder("runs", "/home/u/.local/state/gpuexec/runs", True, "ext4", Space(500 * GIB, 100 * GIB)),
    Folder("checkpoint", "/data/checkpoint", True, "xfs", Space(500 * GIB, 100 * GIB)),
    Folder("spill", "/var/tmp", True, "ext4", Space(500 * GIB, 100 * GIB)),
)
TARGET = TargetFacts("pipeline.py:pipeline", "--set n=3", workers=8, summary="embed 8 × 1 CPU")


def facts(**changes: Any) -> Facts:
    """Return the facts of a machine that is fit, with these changed."""
    whole = {
        "driver": DRIVER,
        "torch": TORCH,
        "kernel_log": KernelLog((), "/dev/kmsg"),
        "mps": MpsFacts("/tmp/nvidia-mps"),
        "cpus": CPU_FACTS,
        "memory": MEMORY,
        "limits": LIMITS,
        "offers": OFFERS,
        "container": ContainerFacts(None, in_initial_pid_namespace=True),
        "packages": PACKAGES,
        "folders": FOLDERS,
        "uptime_s": 100_000.0,
        "target": TARGET,
    }
    return Facts(**{**whole, **changes})


def driver(**changes: Any) -> dict[str, Any]:
    """Return the change to other facts of the driver."""
    return {"driver": dataclasses.replace(DRIVER, **changes)}


def of_gpu(gpu_changes: dict[str, Any] | None = None, **health_changes: Any) -> dict[str, Any]:
    """Return the change to another second GPU; the first stays as it is."""
    node = dataclasses.replace(DRIVER.node, gpus=(GPUS[0], gpu(1, **(gpu_changes or {}))))
    return driver(node=node, health=HealthListing((health(0), health(1, **health_changes))))


def without_driver(
    reason: str = "there is no NVIDIA driver", error: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Return the change to a machine where NVML cannot be used."""
    node = Node(HOST, no_gpus_reason=reason)
    return driver(
        **{
            "node": node,
            "health": HealthListing(reason=reason, error=error),
            "pci_gpus": (),
            "card_lanes": {},
            "kernel_module": None,
            **changes,
        }
    )


def part(name: str, **changes: Any) -> dict[str, Any]:
    """Return the change to a part of the facts."""
    return {name: dataclasses.replace(getattr(facts(), name), **changes)}
