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


@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
def test_all_that_a_stand_in_for_cuda_can_do_passes(nvml_node, tmp_path: Path):
    description = nodes.node(nodes.metered(0), nodes.metered(1))
    nvml_node(description)
    only = ("pinning.uuid", "pinning.index", "pinning.two_on_one", "memory", "faults.device_assert")
    status, checks = gpu_check(tmp_path, *STAND_IN, only=only, **with_smi(tmp_path, description))
    assert outcomes(checks) == dict.fromkeys(checks, "PASS"), [check["reasons"] for check in checks.values()]
    assert checks["memory.strict_share"]["seen"]["error"] == "GpuShareExceeded"
    assert status == 0


@pytest.mark.exhaustive
def test_a_mig_slice_is_what_cuda_shows(nvml_node, tmp_path: Path):
    nvml_node(nodes.mig())
    status, checks = gpu_check(tmp_path, *STAND_IN, only=("pinning.mig",))
    assert (status, outcomes(checks)) == (0, {"pinning.mig": "PASS"})


MISBEHAVES = """
import os, subprocess
left = subprocess.Popen(["sleep", "300"], start_new_session=True)
os._exit(3)
"""
RUNS_TWO = """
import json, sys
from gpu_checks import isolation
from gpu_checks.results import Check
isolation.adopt_orphans()
isolation._PATIENCE_S = 0.2
options = ["--energy-s", "1", "--library", "misbehaves"]
left = isolation.run(Check("template.no_cuda", "", None), options)
hung = isolation.run(Check("sampler.cost", "", None, limit_s=0.01), options)
json.dump([left.to_dict(), hung.to_dict()], sys.stdout)
"""


def test_a_check_that_ends_badly_or_leaves_a_process_fails_and_nothing_is_left(nvml_node, tmp_path: Path):
    nvml_node(nodes.node(nodes.metered(0)))
    (tmp_path / "misbehaves.py").write_text(MISBEHAVES)
    paths = [str(tmp_path), str(ROOT), str(ROOT / "scripts")]
    done = subprocess.run(
        [sys.executable, "-c", RUNS_TWO],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(paths)},
    )
    left, hung = json.loads(done.stdout)
    assert left["outcome"] == hung["outcome"] == "FAIL"
    assert "ended with status 3" in left["reasons"][0]
    (pid,) = [int(word) for word in left["reasons"][1].split() if word.isdigit()]
    assert not Path(f"/proc/{pid}").exists()
    assert "did not end within 0.01 s" in hung["reasons"][0]
