"""``gpuexec doctor`` as users type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpuexec.doctor.catalogue import CHECKS
from tests.nvml_sim import nodes
from tests.process.running import run_command

UNFIT = "tests.process.stages.unfit"
OF_PIPELINES = ("--check", "target", "--check", "plan", "--check", "requirements", "--check", "start-up")


def examined(*arguments: str, **environment: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the exit status, the JSON object, and the checks in it by name."""
    done = run_command("doctor", "--json", *arguments, **environment)
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    return done.returncode, document, {check["name"]: check for check in document["checks"]}


def worst(check: dict[str, Any]) -> list[str]:
    return [finding["found"] for finding in check["findings"] if finding["outcome"] == check["outcome"]]


def test_this_machine_is_examined_and_not_changed(tmp_path: Path):
    status, document, checks = examined(XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path))
    assert list(checks) == [check.name for check in CHECKS if not check.needs_target]
    assert status == document["exit_status"]
    assert document["counts"][document["outcome"]] > 0
    assert list(tmp_path.iterdir()) == []
    assert checks["memfd"]["outcome"] == checks["pidfd"]["outcome"] == "pass"


def test_a_node_with_a_fault(nvml_node, tmp_path: Path):
    bad = nodes.well(1, fields={"145": 1, "230": 2}, persistence_mode=False)
    nvml_node(nodes.node(nodes.well(0), bad))
    chosen = ("row-remap", "recovery-action", "persistence-mode", "ecc", "driver")
    done = run_command("doctor", *(part for name in chosen for part in ("--check", name)), COLUMNS="80")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[2:] if line and not line.startswith(" ")] == [
        ["FAIL", "row-remap"],
        ["FAIL", "recovery-action"],
        ["WARN", "persistence-mode"],
        ["pass", "driver"],
        ["pass", "ecc"],
        ["5", "checks:"],
    ]
    assert "$ sudo reboot" in done.stdout


def test_a_pipeline_with_stages_that_are_not_fit():
    status, document, checks = examined(f"{UNFIT}:unfit", *OF_PIPELINES)
    assert (status, document["target"]) == (2, f"{UNFIT}:unfit")
    assert checks["target"]["outcome"] == checks["plan"]["outcome"] == "pass"
    (requirement,) = checks["requirements"]["findings"]
    assert "absent-package is not installed" in requirement["found"]
    assert requirement["remedy"] == "python -m pip install absent-package==1"
    (locked,) = worst(checks["start-up"])
    assert locked.startswith("stage 'locked' cannot be sent to a worker: TypeError")
    warned = [finding for finding in checks["start-up"]["findings"] if finding["outcome"] == "warn"]
    assert [f"stage {name!r}" in finding["found"] for name, finding in zip(("noisy", "demanding"), warned, strict=True)]
    assert "started a thread ('poller')" in warned[0]["found"]
    assert warned[0]["remedy"] == f"python -X importtime -c 'import {UNFIT}'"
    forked = [finding["found"] for finding in checks["start-up"]["findings"] if finding["outcome"] == "pass"]
    assert len(forked) == 1, "the other stage"
    assert "workers are forked from a template" in forked[0]


def test_a_name_that_no_check_has():
    done = run_command("doctor", "--check", "swp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: there is no check 'swp'; did you mean 'swap'?" in done.stderr
