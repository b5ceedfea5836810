"""scripts/gpu-check on the simulator: that its checks pass, fail when something is wrong, and leave nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nvml_sim import nodes, smi
from tests.process.running import ROOT

STAND_IN = ("--library", "tests.nvml_sim.cuda")


def gpu_check(
    folder: Path, *arguments: str, only: tuple[str, ...] = (), **environment: str
) -> tuple[int, dict[str, Any]]:
    """Return the command's exit status and the checks of its file, by name."""
    path = folder / "out.json"
    names = [part for name in only for part in ("--only", name)]
    done = subprocess.run(
        [ROOT / "scripts" / "gpu-check", "--python", sys.executable, "--json", path, *names, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", **environment},
    )
    assert path.exists(), done.stderr
    document = json.loads(path.read_text())
    assert (document["schema"], document["version"]) == ("gpuexec-gpu-check", 1)
    assert not [line for line in done.stdout.splitlines() if len(line) > 80 and str(path) not in line]
    return done.returncode, {check["name"]: check for check in document["checks"]}


def outcomes(checks: dict[str, Any]) -> dict[str, str]:
    return {name: check["outcome"] for name, check in checks.items()}


def with_smi(folder: Path, description: dict[str, Any]) -> dict[str, str]:
    """Return an environment with a program nvidia-smi that prints this node."""
    smi.install(folder / "bin", smi.document(description))
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


CHEAP = (
    "inventory.nvidia_smi",
    "pinning.environment",
    "template.no_cuda",
    "sampler.cost",
    "energy.counter",
    "faults.worker_killed",
    "faults.driver_killed",
)


def test_what_can_be_checked_on_a_simulated_node_passes(nvml_node, tmp_path: Path):
    description = nodes.node(nodes.metered(0))
    nvml_node(description)
    status, checks = gpu_check(tmp_path, "--energy-s", "1", *STAND_IN, only=CHEAP, **with_smi(tmp_path, description))
    assert outcomes(checks) == dict.fromkeys(checks, "PASS"), [check["reasons"] for check in checks.values()]
    assert set(checks) == set(CHEAP)
    assert status == 0


def test_mig_slices_are_pinned(nvml_node, tmp_path: Path):
    description = nodes.mig()
    nvml_node(description)
    only = ("inventory", "pinning.environment", "pinning.index")
    status, checks = gpu_check(tmp_path, *STAND_IN, only=only, **with_smi(tmp_path, description))
    assert outcomes(checks) == {
        "inventory.nvidia_smi": "PASS",
        "pinning.environment": "PASS",
        "pinning.index": "SKIPPED",
    }
    rows = checks["pinning.environment"]["seen"]["workers"]
    assert {row["variable"] for row in rows} == {nodes.uuid(number, "MIG") for number in range(3)}
    assert status == 0


def test_what_is_wrong_fails_and_says_so(nvml_node, tmp_path: Path):
    nvml_node(nodes.node(nodes.metered(0)))
    other = nodes.node(nodes.metered(0, uuid=nodes.uuid(9)))
    status, checks = gpu_check(tmp_path, only=("inventory", "pinning.uuid"), **with_smi(tmp_path, other))
    assert outcomes(checks) == {"inventory.nvidia_smi": "FAIL", "pinning.uuid": "SKIPPED"}
    assert nodes.uuid(9) in checks["inventory.nvidia_smi"]["reasons"][0]
    assert "torch" in checks["pinning.uuid"]["reasons"][0]
    assert status == 1


def test_without_a_gpu_nothing_is_checked(nvml_node, tmp_path: Path):
    nvml_node(nodes.no_gpu())
    status, checks = gpu_check(tmp_path, only=("sampler",))
    assert outcomes(checks) == {"sampler.cost": "SKIPPED"}
    assert checks["sampler.cost"]["reasons"][0].startswith("no GPU")
    assert status == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "speed"], "there is no check 'speed'"),
        (["--json", "/nowhere/out.json"], "/nowhere/out.json"),
        (["--energy-s", "0"], "more than 0"),
        (["--python", "python9.9"], "there is no interpreter 'python9.9'"),
        (["--python"], "wants an interpreter"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_checked(arguments, words):
    command = [ROOT / "scripts" / "gpu-check", "--python", sys.executable, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
