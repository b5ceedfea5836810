"""NeMo Curator's light stages are fused like our own."""

from __future__ import annotations

import pandas as pd
import pytest
from nemo_curator.stages.text.filters import DocumentFilter
from nemo_curator.stages.text.filters.score_filter import Filter, Score, ScoreFilter
from nemo_curator.stages.text.modifiers.modifier import Modify
from nemo_curator.tasks import DocumentBatch

from gpuexec import InlineExecutor, LocalExecutor, Pipeline
from gpuexec.curator.fusion_facts import fusion_facts
from gpuexec.curator.stage_facts import demand_of, sets_up_node


class LongerThan(DocumentFilter):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def score_document(self, text: str) -> float:
        return len(text)

    def keep_document(self, score: float) -> bool:
        return score > self.length


class WithModel(LongerThan):
    def load_model(self) -> None:
        self.model = "loaded"


class WithDownload(LongerThan):
    def model_check_or_download(self) -> None:
        pass


def upper(text: str) -> str:
    return text.upper()


def facts(stage):
    return fusion_facts(stage, demand_of(stage), {})


@pytest.mark.parametrize(
    ("stage", "sets_up"),
    [
        (ScoreFilter(LongerThan(1)), False),
        (ScoreFilter([LongerThan(1), LongerThan(2)], text_field="text"), False),
        (ScoreFilter(WithModel(1)), True),
        (ScoreFilter([LongerThan(1), WithDownload(1)], text_field="text"), True),
        (Score(len, score_field="n"), False),
        (Score(WithModel(1), score_field="n"), True),
        (Filter(lambda n: n > 1, filter_field="n"), False),
        (Modify(upper), False),
    ],
    ids=["filter", "filters", "model", "download", "score", "score with model", "filter by field", "modify"],
)
def test_what_a_filter_wraps_decides_whether_it_sets_up(stage, sets_up: bool):
    assert facts(stage).obstacle is None
    assert facts(stage).sets_up == sets_up


def test_a_process_for_the_node_is_only_started_where_something_is_downloaded():
    assert not sets_up_node(ScoreFilter(LongerThan(1)))
    assert sets_up_node(ScoreFilter(WithDownload(1)))


def test_a_chain_of_filters_runs_in_one_process():
    stages = [Modify(upper), *(ScoreFilter(LongerThan(n), score_field=f"n{n}") for n in range(6)), Modify(str.lower)]
    for number, stage in enumerate(stages):
        stage.name = f"{stage.name}_{number}"

    def tasks() -> list[DocumentBatch]:
        return [
            DocumentBatch(dataset_name="d", data=pd.DataFrame({"text": ["x" * n, "y" * (n + 3)]})) for n in range(8)
        ]

    executor = LocalExecutor(show_progress=False, cpus=1)
    results = Pipeline("p", stages=list(stages)).run(executor, initial_tasks=tasks())
    expected = Pipeline("p", stages=list(stages)).run(InlineExecutor(), initial_tasks=tasks())
    assert len(executor.last_report.workers) == 1
    assert [task.task_id for task in results] == [task.task_id for task in expected]
    for task, other in zip(results, expected, strict=True):
        pd.testing.assert_frame_equal(task.to_pandas(), other.to_pandas())
        assert [p.stage_name for p in task._stage_perf] == [p.stage_name for p in other._stage_perf]
