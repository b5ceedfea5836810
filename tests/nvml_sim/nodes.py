"""Descriptions of nodes for the simulator; memory sizes in bytes, as real boards report them."""

from __future__ import annotations

import time
from typing import Any

GIB = 1024**3
MIB = 1024**2


def gpu(number: int, memory_gib: float = 80, name: str = "NVIDIA H100 80GB HBM3", **fields: Any) -> dict[str, Any]:
    """One GPU; ``fields`` add to or replace the values given here."""
    return {
        "uuid": uuid(number),
        "name": name,
        "pci_bus_id": f"00000000:{0x10 * (number + 1):02X}:00.0",
        "minor_number": number,
        "memory_total_bytes": int(memory_gib * GIB),
        "memory_reserved_bytes": 512 * MIB,
        "memory_used_bytes": 0,
        "compute_capability": [9, 0],
        "compute_mode": "default",
        "utilization_percent": 0,
        "temperature_c": 34,
        "power_mw": 70_000,
        "processes": [],
        **fields,
    }


def uuid(number: int, kind: str = "GPU") -> str:
    """A UUID whose first eight digits are the GPU's number."""
    return f"{kind}-{number:08x}-1111-2222-3333-4444444444{number:02x}"


def metered(number: int, **fields: Any) -> dict[str, Any]:
    """A GPU of which everything can be read that is sampled during a run; its counters go on by its rates."""
    rates = {"pcie_rx_bytes_per_s": 2 * 10**9, "pcie_tx_bytes_per_s": 10**9, "utilization_percent": 60}
    return gpu(
        number,
        **{
            "memory_utilization_percent": 25,
            "power_average_mw": 70_000,
            "energy_mj": 10**9,
            "pcie_rx_bytes": 2**40,
            "pcie_tx_bytes": 2**41,
            "sm_clock_mhz": 1980,
            "memory_clock_mhz": 2619,
            "clocks_event_reasons": 0,
            "throttled_ns": {"74": 0, "269": 0, "270": 0, "271": 0},
            "counted_at_ns": time.monotonic_ns(),
            **rates,
            **fields,
        },
    )


def well(number: int, **fields: Any) -> dict[str, Any]:
    """A data-centre GPU of which everything that says how it is can be read, and is as it should be.

    ``fields["fields"]`` are NVML's fields by number: ECC errors (3 to 6), retired pages (29 to 31), remapped rows (142
    to 145), the recovery action (230).
    """
    numbers = {**dict.fromkeys(map(str, (3, 4, 5, 6, 142, 143, 144, 145, 230)), 0), **fields.pop("fields", {})}
    return gpu(
        number,
        **{
            "persistence_mode": True,
            "ecc": {"current": True, "pending": True},
            "pcie_link": {"width": 16, "max_width": 16, "generation": 1, "max_generation": 5},
            "mig": {"enabled": False},
            "clocks_event_reasons": 1,
            "throttled_ns": {"74": 0, "269": 0, "270": 0, "271": 0},
            "fields": numbers,
            **fields,
        },
    )


def node(*gpus: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A node with a current driver."""
    return {"driver_version": "580.95.05", "cuda_driver_version": 13000, "gpus": list(gpus), **fields}


def no_gpu() -> dict[str, Any]:
    """A driver that finds no GPU."""
    return node()


def small() -> dict[str, Any]:
    """A workstation: one small GPU that also renders the desktop."""
    desktop = {"pid": 1, "used_bytes": 300 * MIB, "kind": "graphics"}
    return node(
        gpu(0, 8, "NVIDIA GeForce RTX 4060", compute_capability=[8, 9], processes=[desktop], utilization_percent=3)
    )


def eight_nvlink() -> dict[str, Any]:
    """A server: eight equal GPUs on an NVSwitch, four on each of two sockets with 32 CPUs."""
    gpus = []
    for number in range(8):
        first = 0 if number < 4 else 32
        cpus = list(range(first, first + 32))
        gpus.append(gpu(number, numa_node=number // 4, cpu_affinity=cpus, nvlinks=["switch"] * 18))
    pairs = [[a, b, "numa_node"] for half in (range(4), range(4, 8)) for a in half for b in half if a < b]
    return node(*gpus, topology={"default": "system", "pairs": pairs})


def two_islands() -> dict[str, Any]:
    """Four GPUs of which only the pairs 0-2 and 1-3 have NVLink: the closest GPUs do not have adjacent numbers."""
    links = {0: [2, 2], 1: [3], 2: [0, 0], 3: [1]}
    gpus = [gpu(number, 24, "NVIDIA A10", nvlinks=links[number]) for number in range(4)]
    return node(*gpus, topology={"default": "host_bridge", "pairs": [[0, 1, "single_switch"]]})


def unequal() -> dict[str, Any]:
    """Three GPUs of 80, 24 and 8 GiB."""
    return node(
        gpu(0, 80),
        gpu(1, 24, "NVIDIA RTX 4090", compute_capability=[8, 9]),
        gpu(2, 8, "NVIDIA RTX 3050", compute_capability=[8, 6]),
        topology={"default": "host_bridge", "pairs": []},
    )


def mig() -> dict[str, Any]:
    """One GPU divided into one large and two small slices."""
    sizes = [("3g.40gb", 40), ("1g.10gb", 10), ("1g.10gb", 10)]
    slices = [
        {
            "uuid": uuid(number, "MIG"),
            "profile": profile,
            "memory_total_bytes": memory * GIB,
            "memory_used_bytes": 16 * MIB,
            "gpu_instance_id": number + 1,
            "compute_instance_id": 0,
        }
        for number, (profile, memory) in enumerate(sizes)
    ]
    return node(gpu(0, 80, mig={"enabled": True, "slices": slices}))


def lost() -> dict[str, Any]:
    """Three GPUs: one healthy, one that can no longer be opened, one lost after it was opened."""
    return node(
        gpu(0),
        gpu(1, lost=True),
        gpu(2, lost=True, lost_late=True, cpu_affinity=[0, 1]),
        topology={"default": "host_bridge", "pairs": []},
    )


def held() -> dict[str, Any]:
    """Two GPUs, the first held by another process."""
    return node(gpu(0, processes=[{"pid": 1, "used_bytes": 70 * GIB}], utilization_percent=99), gpu(1))


def unified() -> dict[str, Any]:
    """A board whose GPU shares the system's memory and reports no memory of its own."""
    return node(gpu(0, name="NVIDIA GB10", compute_capability=[12, 1], unsupported=["memory"]))


ALL = {make.__name__: make for make in (no_gpu, small, eight_nvlink, two_islands, unequal, mig, lost, held, unified)}
