"""``gpuexec.plan``: what a run would start, as a value, as text and as JSON values."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from gpuexec import ConfigurationError, Pipeline, ResourcesError, RunPlan, plan
from gpuexec.hardware.inventory import node_from_json
from gpuexec.hardware.model import ComputeMode, Gpu, Node
from tests.process.stages import Apply, double
from tests.process.stages.gpus import OnGpu
from tests.unit.planning.nodes import GIB, node


def two_gpus() -> Node:
    gpu = Gpu(
        0,
        "GPU-0",
        name="Simulated",
        memory_total_bytes=80 * GIB,
        memory_free_bytes=80 * GIB,
        compute_mode=ComputeMode.DEFAULT,
        mig_enabled=False,
        processes=(),
    )
    return dataclasses.replace(node(cpus=8), gpus=(gpu, dataclasses.replace(gpu, index=1, uuid="GPU-1")))


def test_of_a_pipeline_and_of_its_stages():
    stages = [Apply(double, "first"), Apply(double, "second").with_(fuse=False, max_attempts=5)]
    of_pipeline, of_stages = plan(Pipeline("p", stages=stages), node=node(cpus=4)), plan(stages, node=node(cpus=4))
    assert isinstance(of_pipeline, RunPlan)
    assert of_pipeline == of_stages
    assert of_pipeline.stage_names == ("first", "second")
    assert of_pipeline.stage_options == {"second": {"max_attempts": 5}}
    assert [group.stages for group in of_pipeline.groups] == [(0,), (1,)]


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_batch_size_that_no_run_would_take_is_refused(size):
    with pytest.raises(ConfigurationError, match="stage 'first': batch_size must be a whole number >= 1"):
        plan([Apply(double, "first").with_(batch_size=size)], node=node(cpus=4))


def test_options_as_a_mapping_and_as_keywords_which_win():
    (stage,) = plan([Apply(double)], config={"cpus": 1, "reserved_cpus": 0.5}, cpus=2).plan.phases[0].stages
    assert len(stage.workers) == 6, "1.5 of 2 CPUs, a quarter each"


def test_as_text_and_as_json_values():
    made = plan([Apply(double, "read"), OnGpu(gpus=0.5)], node=two_gpus(), stage_options={"read": {"max_attempts": 2}})
    text = str(made)
    assert "2 GPU(s)" in text
    assert "stage 'read', options of its own: max_attempts=2" in text
    document = json.loads(json.dumps(made.to_dict()))
    (phase,) = document["phases"]
    read, on_gpu = phase["stages"]
    assert (read["name"], read["fused"], read["has_fixed_count"]) == ("read", [], False)
    assert on_gpu["why_separate"]
    worker = on_gpu["workers"][0]
    assert worker["gpus"][0]["fraction"] == 0.5
    assert worker["cuda_visible_devices"] == worker["gpus"][0]["uuid"]
    assert document["stage_options"] == {"read": {"max_attempts": 2}}
    assert node_from_json(document["node"]) == made.node


def test_fused_stages_are_named():
    (stage,) = plan([Apply(double, "a"), Apply(double, "b")], node=node(cpus=2)).to_dict()["phases"][0]["stages"]
    assert stage["fused"] == [{"stage_index": 1, "name": "b"}]


@pytest.mark.parametrize(
    ("stages", "options", "error"),
    [
        ([], {}, ConfigurationError),
        ([Apply(double)], {"queue_task": 1}, ConfigurationError),
        ([OnGpu(gpus=3)], {}, ResourcesError),
        (Pipeline("none"), {}, ConfigurationError),
        ([Apply], {}, ConfigurationError),
    ],
)
def test_what_no_run_would_take_is_refused(stages, options, error):
    with pytest.raises(error):
        plan(stages, node=two_gpus(), **options)


def test_it_is_public_also_after_the_planner_is_imported():
    """The package that plans is not called ``plan``: as a module, that would take the function's place."""
    code = "import gpuexec, gpuexec.planning.planner; assert callable(gpuexec.plan); print(gpuexec.plan.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "gpuexec.executors.run_plan"
