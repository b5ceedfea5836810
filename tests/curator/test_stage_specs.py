"""The specs of NeMo Curator's stages, and stages on its base class that are asynchronous."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from nemo_curator.backends.utils import RayStageSpecKeys
from nemo_curator.pipeline import Pipeline
from nemo_curator.tasks import DocumentBatch

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.curator.spec_keys import RAY
from tests.curator.stages_specs import MAX_CALLS, Counts, Waits


def run(stage: Any, executor: Any | None = None, count: int = 6) -> list[Any]:
    tasks = [DocumentBatch(dataset_name="d", data=pd.DataFrame({"text": ["x"] * (n + 1)})) for n in range(count)]
    pipeline = Pipeline(name="p", stages=[stage])
    executor = executor or LocalExecutor(show_progress=False, capsules=False)
    return pipeline.run(executor, initial_tasks=tasks) or []


def test_the_table_has_every_key_of_curator():
    assert {key.value for key in RayStageSpecKeys} == set(RAY)


def test_a_worker_has_as_many_calls_as_it_may():
    made = run(Counts({MAX_CALLS: 2}))
    assert max(int(task.data["calls"].iloc[0]) for task in made) == 2
    assert len({int(task.data["pid"].iloc[0]) for task in made}) >= 3


def test_what_cannot_be_is_refused_before_anything_starts():
    with pytest.raises(ConfigurationError, match=r"stage 'counts': ray_stage_spec\(\)\['max_calls_per_worker'\]"):
        run(Counts({MAX_CALLS: 0}))
    with pytest.raises(ConfigurationError, match=r"stage 'counts': xenna_stage_spec\(\)\['num_workers'\]"):
        run(Counts(xenna={"num_workers": 2}))


@pytest.mark.parametrize(
    "executor",
    [LocalExecutor(show_progress=False, max_concurrency=3), InlineExecutor(show_progress=False, max_concurrency=3)],
)
def test_an_asynchronous_stage_on_curators_base_class(executor: Any):
    made = run(Waits(), executor, count=12)
    perf = [task._stage_perf[0] for task in made]
    assert max(stats.custom_metrics["in_flight"] for stats in perf) == 3
    assert [stats.custom_metrics["length"] for stats in perf] == [n + 1 for n in range(12)]
    assert [stats.num_items_processed for stats in perf] == [n + 1 for n in range(12)]
    assert all(stats.process_time >= 0.015 for stats in perf)
    assert [task.task_id for task in made] == [f"0_{n}_0" for n in range(12)]
