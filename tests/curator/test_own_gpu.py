"""NeMo Curator's helpers that ask NVML for index 0, in a worker that has another GPU."""

from __future__ import annotations

from tests.curator.stages_own_gpu import AsksForMemory
from tests.nvml_sim import nodes
from tests.nvml_sim.nodes import GIB, MIB
from tests.process.running import run_local
from tests.process.stages import items


def test_curators_helpers_give_the_workers_own_gpu(nvml_node):
    somebody = {"pid": 1, "used_bytes": 70 * GIB}
    nvml_node(nodes.node(nodes.gpu(0, 80, processes=[somebody]), nodes.gpu(1, 24, "NVIDIA A10")))
    ((visible, free, size_gb),) = run_local([AsksForMemory()], items(0)).data
    assert visible == nodes.uuid(1)
    assert free == 24 * GIB - 512 * MIB
    assert size_gb == 24.0
