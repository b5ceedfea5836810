"""What ``gpuexec gpus`` prints on terminals that are too narrow for its table."""

from __future__ import annotations

import pytest

from gpuexec.cli.gpus import gpu_lines
from gpuexec.hardware.inventory import read_node
from tests.nvml_sim import nodes


def test_eight_gpus_fit_a_screen_or_two_of_80_columns(nvml_node):
    nvml_node(nodes.eight_nvlink())
    lines = list(gpu_lines(read_node()))
    assert len(lines) <= 1 + 8 * 4
    assert max(map(len, lines)) <= 80
    assert lines[1] == "  0  NVIDIA H100 80GB HBM3, NUMA 0, closest all (NVLink ×18)"
    assert lines[2].strip() == nodes.uuid(0)
    assert "of 80.0 GiB used" in lines[3]


@pytest.mark.parametrize("make", [nodes.mig, nodes.lost, nodes.held, nodes.unified, nodes.small])
def test_every_device_is_named_by_its_uuid(nvml_node, make):
    nvml_node(make())
    node = read_node()
    text = "\n".join(gpu_lines(node))
    for gpu in node.gpus:
        for device in (gpu, *gpu.mig_slices):
            assert (device.uuid or "?") in text
        for process in gpu.processes or ():
            assert str(process.pid) in text
