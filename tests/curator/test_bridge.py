"""Our classes count as subclasses of Curator's in either import order, and its stages are read correctly."""

from __future__ import annotations

import inspect
import subprocess
import sys

import nemo_curator.utils.performance_utils as curator_perf
import pytest
from nemo_curator.pipeline import Pipeline as CuratorPipeline
from nemo_curator.stages.base import ProcessingStage as CuratorStage
from nemo_curator.stages.resources import Resources as CuratorResources
from nemo_curator.tasks import EmptyTask as CuratorEmptyTask
from nemo_curator.tasks import Task as CuratorTask

import gpuexec
from gpuexec import ConfigurationError, LocalExecutor, Pipeline
from gpuexec.curator import stage_facts
from tests.process.stages import Apply, Range, double

IMPORTS = ("from gpuexec import LocalExecutor", "from nemo_curator.backends.base import BaseExecutor")


class Keep(CuratorStage[CuratorTask, CuratorTask]):
    name = "keep"

    def process(self, task: CuratorTask) -> CuratorTask:
        return task


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]])
def test_either_import_order(imports: tuple[str, str]):
    code = "\n".join([*imports, "assert isinstance(LocalExecutor(), BaseExecutor)"])
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("pipeline", [Pipeline, CuratorPipeline])
def test_stages_of_both_libraries_in_one_pipeline(pipeline):
    stages = pipeline("p")
    for stage in (Range(6), Keep(), Apply(double)):
        stages.add_stage(stage)
    results = stages.run(LocalExecutor(show_progress=False))
    assert [task.data for task in results] == [0, 2, 4, 6, 8, 10]
    assert [perf.stage_name for perf in results[0]._stage_perf] == ["range", "keep", "apply"]


def test_memory_is_read_before_the_rounded_gpus():
    stage = Keep().with_(resources=CuratorResources(gpu_memory_gb=0.5))
    demand = stage_facts.demand_of(stage)
    assert (demand.gpu_memory_gb, demand.gpus) == (0.5, 0)


def test_curators_root_task_begins_a_curator_pipeline():
    assert type(stage_facts.empty_task_for(Keep())) is CuratorEmptyTask


@pytest.mark.parametrize("key", ["is_raft_actor", "is_lsh_stage", "is_shuffle_stage"])
def test_stages_that_need_rays_shuffle_are_refused(key: str):
    stage = Keep().with_(ray_stage_spec={key: True})
    with pytest.raises(ConfigurationError, match="RayActorPoolExecutor"):
        stage_facts.demand_of(stage)


def test_stats_have_the_same_fields_in_the_same_order():
    """Their pickled form names none: see gpuexec.channel.perf_identity."""
    ours, theirs = (
        list(inspect.signature(cls).parameters) for cls in (gpuexec.StagePerfStats, curator_perf.StagePerfStats)
    )
    assert ours == theirs
