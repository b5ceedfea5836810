"""Pipelines: building, describing, refusing."""

from __future__ import annotations

import pytest

from gpuexec import CompositeStage, ConfigurationError, InlineExecutor, Pipeline, Resources
from tests.unit.contract.stages import Short, Split, Upper, words
from tests.unit.contract.test_stage import Both


def test_build_takes_composites_apart_and_settles_source_and_sink():
    pipeline = Pipeline("p", stages=[Both(), Upper()])
    pipeline.build()
    assert [stage.name for stage in pipeline.stages] == ["split", "short", "upper"]
    assert pipeline.decomposition_info == {"both": ["split", "short"]}
    assert [stage.is_source_stage for stage in pipeline.stages] == [True, False, False]
    assert [stage.is_sink_stage for stage in pipeline.stages] == [False, False, True]
    pipeline.build()
    assert len(pipeline.stages) == 3


def test_a_marked_source_is_kept():
    short = Short()
    short.is_source_stage = True
    pipeline = Pipeline("p", stages=[Split(), short])
    pipeline.build()
    assert [stage.is_source_stage for stage in pipeline.stages] == [False, True]


@pytest.mark.parametrize("flag", ["is_source_stage", "is_sink_stage"])
def test_two_sources_or_sinks(flag):
    stages = [Split(), Short()]
    for stage in stages:
        setattr(stage, flag, True)
    with pytest.raises(ValueError, match="has multiple"):
        Pipeline("p", stages=stages).build()


def test_a_composite_in_a_composite():
    class Outer(CompositeStage):
        name = "outer"

        def decompose(self):
            return [Both()]

    with pytest.raises(TypeError, match="decomposed into another composite stage 'both'"):
        Pipeline("p", stages=[Outer()]).build()


def test_no_stages():
    with pytest.raises(ConfigurationError, match=r"'p' has no stages: add_stage\(\) first"):
        Pipeline("p").run()


@pytest.mark.parametrize("wrong", [Upper, 3, None])
def test_only_stages_can_be_added(wrong):
    with pytest.raises(TypeError, match="must be a ProcessingStage"):
        Pipeline("p").add_stage(wrong)


def test_what_is_no_stage_is_refused_before_anything_starts():
    with pytest.raises(ConfigurationError, match=r"stage 1 .*pass an instance instead of the class"):
        InlineExecutor().execute([Upper(), Short])
    with pytest.raises(ConfigurationError, match="stage 0 is a int"):
        InlineExecutor().execute([3])
    with pytest.raises(ConfigurationError, match="there are no stages to run"):
        InlineExecutor().execute([])


def test_describe_names_every_stage_and_survives_a_broken_one():
    class Broken(Upper):
        name = "broken"

        def inputs(self):
            raise LookupError("no inputs")

    class Rich(Upper):
        name = "rich"
        resources = Resources(cpus=2, gpu_memory_gb=4)

        def inputs(self):
            return ["data"], ["text"]

        def outputs(self):
            return [], ["score"]

    class Typed(Upper):
        name = "typed"

        def inputs(self):
            return {Upper: (["data"], ["text"])}

    text = Pipeline("p", "about", stages=[Rich(), Typed(), Broken()]).describe()
    for line in (
        "Pipeline: p",
        "Description: about",
        "Stage 1: rich",
        "Resources: 2 CPUs",
        "GPU Memory: 4 GB",
        "Required attributes: data",
        "Output columns: score",
        "Upper:",
        "Error getting stage info: no inputs",
    ):
        assert line in text


def test_repr():
    assert repr(Pipeline("p", stages=[Upper()])) == "Pipeline(name='p', stages=[upper(Upper)])"


def test_initial_tasks_get_paths_below_the_root():
    out = Pipeline("p", stages=[Upper()]).run(InlineExecutor(), initial_tasks=[words("a"), words("b")])
    assert [task.task_id for task in out] == ["0_0_0", "0_1_0"]


def test_an_executor_without_checkpoints_says_so(tmp_path):
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints; run on LocalExecutor"):
        Pipeline("p", stages=[Upper()]).run(InlineExecutor(), checkpoint_path=tmp_path)
