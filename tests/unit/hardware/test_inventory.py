"""Nodes as JSON: what `gpuexec gpus --json` writes, `gpuexec plan --node` reads."""

from __future__ import annotations

import json

import pytest

from gpuexec.errors import ConfigurationError
from gpuexec.hardware.inventory import node_from_json, node_to_json, read_node
from gpuexec.hardware.visible_devices import select
from tests.nvml_sim import nodes


@pytest.mark.parametrize("make", nodes.ALL.values(), ids=nodes.ALL)
def test_round_trip(nvml_node, make):
    nvml_node(make())
    node = read_node()
    assert node_from_json(json.loads(json.dumps(node_to_json(node)))) == node


def test_a_bare_list_of_gpus_is_a_node_with_this_host(nvml_node):
    nvml_node(nodes.unequal())
    node = read_node()
    again = node_from_json(node_to_json(node)["gpus"])
    assert again.gpus == node.gpus
    assert again.host.cpus == node.host.cpus


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (3, "must be an object"),
        ([{"index": 0}], "[0] lacks uuid"),
        ([{"index": "0", "uuid": "x"}], "[0].index must be a int"),
        ([{"index": True, "uuid": "x"}], "[0].index must be a int"),
        ([{"index": 0, "uuid": "x", "memory": 3}], "unknown key(s) memory"),
        ([{"index": 0, "uuid": "x", "compute_mode": "odd"}], "must be one of default"),
        ([{"index": 0, "uuid": "x", "compute_capability": [9]}], "must have 2 values"),
        ([{"index": 0, "uuid": "x", "mig_slices": {}}], "must be a list"),
        ([{"index": 0, "uuid": "x", "mig_slices": [1]}], "mig_slices[0] must be an object"),
        ({"gpus": []}, "lacks host"),
    ],
)
def test_a_bad_document_names_the_entry(document, message):
    with pytest.raises(ConfigurationError) as caught:
        node_from_json(document)
    assert message in str(caught.value)


def test_visible_devices_of_a_read_node(nvml_node):
    nvml_node(nodes.eight_nvlink())
    node = read_node()
    chosen = select(node.gpus, {"CUDA_VISIBLE_DEVICES": "3,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert [device.index for device in chosen.devices] == [3, 1]
    assert chosen.devices[0].cpus == tuple(range(32))
