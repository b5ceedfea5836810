"""Seeds and options of single stages, for NeMo Curator's own stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from nemo_curator.pipeline import Pipeline
from nemo_curator.tasks import DocumentBatch

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor, WorkerDied
from tests.curator.stages_policy import DrawsTensors


def run(stage: DrawsTensors, executor: Any) -> list[float]:
    tasks = [DocumentBatch(dataset_name="d", data=pd.DataFrame({"text": [text]})) for text in "abcde"]
    pipeline = Pipeline(name="p")
    pipeline.add_stage(stage)
    return [float(task.data["drawn"].iloc[0]) for task in pipeline.run(executor, initial_tasks=tasks)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_another_attempt_draws_the_same_tensors(tmp_path: Path, batch_size: int):
    executor = LocalExecutor(show_progress=False, task_seed=3)
    drawn = run(DrawsTensors(tmp_path, "d", deaths=1).with_(batch_size=batch_size), executor)
    assert any(tmp_path.iterdir())
    assert drawn == run(DrawsTensors(tmp_path), InlineExecutor(task_seed=3, show_progress=False))
    assert len(set(drawn)) == 5


@pytest.mark.parametrize("attempts", [2, 5])
def test_the_attempts_of_one_of_curators_stages(tmp_path: Path, attempts: int):
    options = {"draws_tensors": {"max_attempts": attempts}}
    executor = LocalExecutor(show_progress=False, capsules=False, stage_options=options)
    stage = DrawsTensors(tmp_path, "d", deaths=4)
    if attempts == 2:
        with pytest.raises(WorkerDied):
            run(stage, executor)
        assert len(list(tmp_path.iterdir())) == 2
    else:
        assert len(run(stage, executor)) == 5


def test_a_name_that_no_stage_has(tmp_path: Path):
    executor = LocalExecutor(show_progress=False, stage_options={"draws_tensor": {"max_attempts": 5}})
    with pytest.raises(ConfigurationError, match="did you mean 'draws_tensors'"):
        run(DrawsTensors(tmp_path), executor)
