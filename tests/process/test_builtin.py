"""The built-in benchmarks run real pipelines, on simulated GPUs where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuexec.bench.builtin import gpu, host, machine, measure, transport
from gpuexec.bench.builtin.command import run_builtin
from gpuexec.bench.builtin.judge import Finding
from gpuexec.bench.builtin.runs import pieces, results_per_s
from gpuexec.bench.builtin.stages import Drop, Make, Pass
from gpuexec.bench.builtin.store import load_result
from gpuexec.report.figures import LOWER
from gpuexec.units import MIB
from tests.nvml_sim import nodes
from tests.process.running import run_command


@pytest.mark.exhaustive
def test_transport_and_start_are_measured(monkeypatch: pytest.MonkeyPatch):
    facts = {"cpu": "EPYC", "usable_cpus": 2.0}
    assert results_per_s([Pass("pass")], pieces([b"x"] * 200)) > 0
    for kind in ("bytes", "arrow", "pandas"):
        assert results_per_s([Make("make", kind, MIB), Drop("drop")], pieces(range(4))) > 0
    spawned, warm = transport.start_figures(facts, 1)
    assert spawned.values[0] > 0
    assert warm.values[0] > 0
    assert {spawned.better, warm.better} == {LOWER}


@pytest.mark.exhaustive
def test_memory_is_copied_in_all_workers_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "_COPY_BYTES", 8 * MIB)
    one, every = host.memory_figures({"cpu": "EPYC", "usable_cpus": 2.0}, 2**30, 1)
    assert one.values[0] > 0
    assert every.reason is None, every.reason
    assert every.values[0] > 0


def test_gpus_without_a_library_are_told_as_not_measured_and_their_power_is_read(nvml_node):
    nvml_node(nodes.node(nodes.metered(0), nodes.metered(1, power_average_mw=95_000)))
    _, facts = machine.this_machine()
    figures = {figure.key: figure for figure in gpu.gpu_figures(facts, 1, load_s=0.1)}
    assert figures["gpu0.idle_watts"].values[0] == 70
    assert figures["gpu1.idle_watts"].values[0] == 95
    assert figures["gpu0.idle_watts"].conditions["driver"] == "580.95.05"
    assert "torch" in str(figures["gpu.all"].reason)
    assert "GPU 0, 1" in figures["gpu.all"].name


def test_a_gpu_that_others_hold_is_named_in_the_reason(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, processes=[{"pid": 1, "used_bytes": 70 * 2**30}])))
    _, facts = machine.this_machine()
    (figure,) = gpu.gpu_figures(facts, 1, load_s=0.1)
    assert figure.values == ()
    assert "GPU" in str(figure.reason)


def test_what_the_command_refuses(tmp_path):
    done = run_command("bench", "tests.process.test_cli_runs:small", "--builtin")
    assert done.returncode == 2
    assert "takes no TARGET" in " ".join(done.stderr.replace("│", " ").split())
    for arguments, words in (
        (("--reference", tmp_path / "none.json"), "cannot be read"),
        (("--disk", tmp_path / "none"), "there is no such folder"),
    ):
        done = run_command("bench", "--builtin", *arguments, XDG_STATE_HOME=str(tmp_path))
        assert done.returncode == 1
        assert words in done.stderr


def test_figures_are_stored_and_compared_with_the_run_before(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """The groups that take milliseconds: the others are measured above."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    all_groups = measure.groups_of
    few = ("GPUs", "planner")
    monkeypatch.setattr(
        measure, "groups_of", lambda *given, full: [group for group in all_groups(*given, full=full) if group[0] in few]
    )
    first = run_builtin(disks=[tmp_path])
    assert {each.finding for each in first.earlier} == {Finding.NOT_MEASURED, Finding.FIRST}
    assert load_result(Path(str(first.path))) == first.result
    second = run_builtin(Path(str(first.path)), disks=[tmp_path])
    found = json.loads(json.dumps(second.to_dict()))
    assert (found["schema"], found["version"]) == ("gpuexec-builtin", 1)
    for beside in (found["earlier"], found["reference"]):
        assert [each["n"] for each in beside if each["key"].startswith("planner")] == [1, 1]
