"""Pipelines as the doctor reads them: loaded, planned, pickled. Nothing of them is run or started here."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gpuexec import Pipeline
from gpuexec.config import ExecutorConfig
from gpuexec.doctor.facts import TargetFacts
from gpuexec.doctor.readers.target import read_target, shell_arguments
from tests.nvml_sim import nodes
from tests.nvml_sim.nodes import GIB
from tests.process.stages import Apply, Item, Range, double
from tests.process.stages.gpus import OnGpu


def read(*stages: Any, **options: Any) -> tuple[TargetFacts, tuple[str, ...]]:
    config = ExecutorConfig.create({"start_method": "spawn", **options})
    return read_target("p.py:p", lambda: Pipeline("p", stages=list(stages)), config)


def test_a_plan_and_the_modules_of_its_stages():
    facts, modules = read(Range(3), Apply(double), fusion="off", cpus=2)
    assert (facts.load_problem, facts.plan_problem, facts.unmet, facts.not_sendable) == (None, None, (), ())
    assert facts.workers == 10
    assert facts.summary == "range 2 × 1 CPU; apply 8 × 0.25 CPUs"
    assert facts.spawned == "start_method='spawn'"
    assert "tests.process.stages" in modules


@pytest.mark.parametrize(
    ("error", "said"),
    [(LookupError("no such\ntable"), "LookupError: no such table"), (SyntaxError(), "SyntaxError: None")],
)
def test_a_pipeline_that_cannot_be_made(error, said):
    def load() -> Any:
        raise error

    assert read_target("p.py:p", load, ExecutorConfig.create())[0] == TargetFacts("p.py:p", load_problem=said)


def test_what_cannot_be_sent():
    stage = Apply(double)
    stage.lock = threading.Lock()
    facts, _ = read(Range(3), stage)
    ((name, why),) = facts.not_sendable
    assert name == "apply"
    assert "cannot pickle '_thread.lock' object" in why


def test_requirements_do_not_hide_the_plan(capfd):
    stage = Apply(double)
    stage.runtime_env = {"pip": ["absent-package==1", "psutil"]}
    facts, _ = read(Range(3), stage)
    assert [text.rpartition(", but ")[2] for text in facts.unmet] == ["absent-package is not installed"]
    assert facts.plan_problem is None
    assert "absent" not in capfd.readouterr().err


def test_gpus_and_their_memory(nvml_node):
    nvml_node(nodes.node(nodes.well(0)))
    facts, _ = read(OnGpu(gpus=0.5), OnGpu(gpu_memory_gb=10, name="by_memory"))
    assert facts.summary.startswith("on_gpu 1 × 0.1 CPUs, 0.5 of a GPU (40.0 GiB); by_memory ")
    assert "of a GPU (10.0 GiB)" in facts.summary
    facts, modules = read(OnGpu(gpus=3))
    assert "asks for gpus=3, which can never fit here" in facts.plan_problem
    assert "\n" not in facts.plan_problem
    assert (facts.workers, facts.is_busy, modules) == (0, False, ())


def test_busy_gpus_are_not_waited_for(nvml_node):
    nvml_node(nodes.node(nodes.well(0, processes=[{"pid": 1, "used_bytes": 70 * GIB}])))
    facts, _ = read(OnGpu(gpus=1), busy_gpus="wait")
    assert facts.is_busy
    assert "held by" in facts.plan_problem


def test_a_wrong_option_of_a_stage_is_a_problem_of_the_plan():
    facts, _ = read(Range(3), stage_options={"rnge": {"max_attempts": 2}})
    assert "did you mean 'range'?" in facts.plan_problem


def test_the_command_line_is_given_back_for_a_shell():
    assert shell_arguments(["a=1", "b=x y"], ["cpus=2"]) == "--set a=1 --set 'b=x y' -o cpus=2"
    assert Item("d", 1).data == 1
