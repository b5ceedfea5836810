"""Runs these pipelines in processes of their own, on this machine's CPUs and, for some, on simulated GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from tests.nvml_sim import simulator

NAMES = ("unpack", "caption", "parse")
_ROOT = Path(__file__).parents[2]


def run(name: str, state: Path) -> Path:
    """Run a pipeline with ``state`` as its state folder; return its report's page. Raises ``CalledProcessError``."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state), "PYTHONPATH": f"{_ROOT}:{_ROOT / 'scripts'}"}
    node = getattr(import_module(f"pictured_runs.{name}"), "NODE", None)
    if node is not None:
        simulator.SimulatedNode(state / "node.json", node)
        simulator.build(state)
        environment |= {simulator.VARIABLE: str(state / "node.json"), "LD_LIBRARY_PATH": str(state)}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    subprocess.run([sys.executable, "-m", "pictured_runs", name], env=environment, check=True)
    return max((state / "gpuexec" / "runs").glob("*/report.html"))  # folders are named by their time
