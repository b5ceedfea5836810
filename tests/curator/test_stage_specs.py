"""The specs of NeMo Curator's stages, and stages on its base class that are asynchronous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from nemo_curator.backends.utils import RayStageSpecKeys
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.text.download.base.iterator import DocumentIterateExtractStage, DocumentIterator
from nemo_curator.tasks import DocumentBatch, FileGroupTask

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


class Lines(DocumentIterator):
    def iterate(self, file_path: str) -> Any:
        import os

        yield {"text": Path(file_path).read_text(), "pid": os.getpid()}

    def output_columns(self) -> list[str]:
        return ["text", "pid"]


def test_curators_own_stage_that_asks_for_new_workers(tmp_path: Path):
    """DocumentIterateExtractStage sets max_calls_per_worker, against memory that its extractors leak."""
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(str(number))
    tasks = [FileGroupTask(dataset_name="d", data=[str(path)]) for path in sorted(tmp_path.iterdir())]
    stage = DocumentIterateExtractStage(Lines(), max_calls_per_worker=1)
    made = Pipeline(name="p", stages=[stage]).run(
        LocalExecutor(show_progress=False, capsules=False), initial_tasks=tasks
    )
    assert len({int(task.data["pid"].iloc[0]) for task in made or []}) == 4


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
