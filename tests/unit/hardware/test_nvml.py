"""The inventory over the real pynvml and the simulated driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.hardware import nvml
from gpuexec.hardware.inventory import read_node
from gpuexec.hardware.model import ComputeMode, LinkKind
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB, MIB


def test_everything_a_gpu_says(nvml_node):
    nvml_node(nodes.eight_nvlink())
    listing = nvml.list_gpus()
    assert (listing.driver_version, listing.cuda_version) == ("580.95.05", "13.0")
    assert [gpu.index for gpu in listing.gpus] == list(range(8))
    gpu = listing.gpus[5]
    assert (gpu.uuid, gpu.name, gpu.pci_bus_id) == (nodes.uuid(5), "NVIDIA H100 80GB HBM3", "00000000:60:00.0")
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (80 * GIB, 0)
    assert gpu.memory_free_bytes == 80 * GIB - 512 * MIB, "the driver's reserve is not free"
    assert (gpu.compute_capability, gpu.compute_mode, gpu.utilization_percent) == ((9, 0), ComputeMode.DEFAULT, 0)
    assert (gpu.numa_node, gpu.cpu_affinity) == (1, tuple(range(32, 64)))
    assert gpu.processes == ()
    assert gpu.unknown == {"mig_enabled": "not supported by this GPU"}


def test_processes_and_desktop(nvml_node):
    nvml_node(nodes.small())
    (gpu,) = nvml.list_gpus().gpus
    (process,) = gpu.processes
    assert (process.pid, process.used_bytes, process.kind) == (1, 300 * MIB, "graphics")
    assert process.name == Path("/proc/1/comm").read_text().strip()


def test_a_process_without_a_size_is_listed_without_one(nvml_node):
    nvml_node(nodes.small())
    simulator.hold_memory(0, None)  # as WSL reports it
    (gpu,) = nvml.list_gpus().gpus
    assert {p.pid: p.used_bytes for p in gpu.processes} == {1: 300 * MIB, os.getpid(): None}


def test_links_through_a_switch_count_by_peer_to_peer_status(nvml_node):
    nvml_node(nodes.eight_nvlink())
    node = read_node()
    assert len(node.links) == 28
    assert {(link.kind, link.nvlinks) for link in node.links} == {(LinkKind.NVLINK, 18)}


def test_direct_links_and_common_ancestors(nvml_node):
    nvml_node(nodes.two_islands())
    node = read_node()
    kinds = {(link.a, link.b): (link.kind, link.nvlinks) for link in node.links}
    assert kinds[0, 2] == (LinkKind.NVLINK, 2)
    assert kinds[1, 3] == (LinkKind.NVLINK, 1)
    assert kinds[0, 1] == (LinkKind.SINGLE_SWITCH, 0)
    assert kinds[2, 3] == (LinkKind.HOST_BRIDGE, 0)


def test_unreadable_topology_is_unknown_not_guessed(nvml_node):
    nvml_node(nodes.held())
    assert [link.kind for link in nvml.list_gpus().links] == [LinkKind.UNKNOWN]


def test_mig_slices(nvml_node):
    nvml_node(nodes.mig())
    (gpu,) = nvml.list_gpus().gpus
    assert gpu.mig_enabled
    assert [s.profile for s in gpu.mig_slices] == ["3g.40gb", "1g.10gb", "1g.10gb"]
    assert [s.memory_total_bytes for s in gpu.mig_slices] == [40 * GIB, 10 * GIB, 10 * GIB]
    assert [s.uuid for s in gpu.mig_slices] == [nodes.uuid(i, "MIG") for i in range(3)]
    assert [s.gpu_instance_id for s in gpu.mig_slices] == [1, 2, 3]
    assert gpu.utilization_percent is None
    assert gpu.unknown["utilization_percent"] == "not supported by this GPU"


def test_a_lost_gpu_does_not_hide_the_others(nvml_node):
    nvml_node(nodes.lost())
    well, unopened, late = nvml.list_gpus().gpus
    assert not well.lost
    assert unopened.lost
    assert late.lost
    assert unopened.memory_total_bytes is None
    assert "lost" in unopened.unknown["handle"]
    assert "lost" in late.unknown["memory_total_bytes"]
    assert late.cpu_affinity == (0, 1), "what still answers is kept"


def test_unified_memory_falls_back_to_the_hosts(nvml_node):
    nvml_node(nodes.unified())
    node = read_node()
    (gpu,) = node.gpus
    assert gpu.unified_memory
    assert gpu.memory_total_bytes == node.host.memory_total_bytes
    assert gpu.memory_used_bytes is None
    assert "memory_used_bytes" in gpu.unknown
    assert "memory_total_bytes" not in gpu.unknown


@pytest.mark.parametrize(
    "field",
    ["utilization_percent", "compute_capability", "name", "pci_bus_id", "processes", "compute_mode", "uuid", "p2p"],
)
def test_one_unsupported_field_costs_only_itself(nvml_node, field):
    description = nodes.unequal()
    description["gpus"][1]["unsupported"] = [field]
    nvml_node(description)
    listing = nvml.list_gpus()
    assert [gpu.memory_total_bytes // GIB for gpu in listing.gpus] == [80, 24, 8]
    if field != "p2p":
        assert getattr(listing.gpus[1], field) is None
        assert field in listing.gpus[1].unknown
        assert field not in listing.gpus[0].unknown


def test_a_driver_without_gpus(nvml_node):
    nvml_node(nodes.no_gpu())
    node = read_node()
    assert node.gpus == ()
    assert "reports no GPU" in node.no_gpus_reason


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "kernel module is not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "version mismatch"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not use"),
        (pynvml.NVML_ERROR_UNKNOWN, "cannot be initialised"),
    ],
)
def test_a_driver_that_refuses(nvml_node, code, message):
    nvml_node({**nodes.small(), "init_error": code})
    node = read_node()
    assert node.gpus == ()
    assert message in node.no_gpus_reason


def reason_with(folder: Path) -> str:
    """What a fresh process says with only this folder to look for the library in."""
    code = "from gpuexec.hardware.inventory import read_node; print(read_node().no_gpus_reason)"
    env = {k: v for k, v in os.environ.items() if k != simulator.VARIABLE} | {"LD_LIBRARY_PATH": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_a_library_that_does_not_load(tmp_path: Path):
    (tmp_path / simulator.LIBRARY).write_text("not a library")
    reason = reason_with(tmp_path)
    assert "does not load" in reason
    assert simulator.LIBRARY in reason


def test_memory_used_leaves_out_what_it_cannot_read(nvml_node):
    nvml_node(nodes.held())
    assert nvml.memory_used([nodes.uuid(0), nodes.uuid(7)]) == {nodes.uuid(0): 70 * GIB}


def test_memory_of_one_process(nvml_node):
    nvml_node(nodes.held())
    with nvml.session() as library:
        own = nvml.ProcessMemory(library, nodes.uuid(1), os.getpid())
        assert own.read() is MemoryAbsence.NOT_LISTED
        simulator.hold_memory(1, 3 * GIB)
        assert own.read() == 3 * GIB
        simulator.hold_memory(1, None)  # as WSL lists a process
        assert own.read() is MemoryAbsence.LISTED_WITHOUT_SIZE
        assert nvml.ProcessMemory(library, nodes.uuid(7), os.getpid()).read() is MemoryAbsence.DEVICE_NOT_FOUND
