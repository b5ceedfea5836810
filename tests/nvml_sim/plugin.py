"""Fixtures: the simulator library, built once per session, and a simulated node for one test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.nvml_sim import simulator
from tests.nvml_sim.simulator import SimulatedNode


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the simulator and load it into this process, so that pynvml finds it under the driver's name."""
    library = simulator.build(tmp_path_factory.mktemp("nvml"))
    simulator.preload(library)
    return library


@pytest.fixture
def nvml_node(
    nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], SimulatedNode]:
    """Return a function that makes this process, and those it starts, see a given node with all of its GPUs."""

    def use(description: dict[str, Any]) -> SimulatedNode:
        path = tmp_path / "node.json"
        monkeypatch.setenv(simulator.VARIABLE, str(path))
        monkeypatch.setenv("LD_LIBRARY_PATH", f"{nvml_library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return SimulatedNode(path, description)

    return use
