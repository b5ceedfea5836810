"""Figures of Curator's stages: what they log, and the records that Curator's own reports are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.tasks import Task

from gpuexec import InlineExecutor, LocalExecutor


@dataclass
class Number(Task[int]):
    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class Logs(ProcessingStage[Number, Number]):
    """Logs what it gets; raises about a negative number; drops zeros."""

    def __init__(self, name: str) -> None:
        self.name = name

    def process(self, task: Number) -> Number | None:
        self._log_metric("number", task.data)
        if task.data < 0:
            self._log_metric("negative", 1.0)
            raise LookupError(task.data)
        return task if task.data else None


def numbers(*values: int) -> list[Number]:
    return [Number(dataset_name="d", data=value) for value in values]


def executors(**options: Any) -> list[Any]:
    return [
        pytest.param(lambda: LocalExecutor(show_progress=False, **options), id="local"),
        pytest.param(lambda: LocalExecutor(show_progress=False, fusion="off", **options), id="apart"),
        pytest.param(InlineExecutor, id="inline"),
    ]


@pytest.mark.parametrize("make", executors())
def test_what_curators_stages_log_is_in_the_report(make):
    executor = make()
    Pipeline(name="p", stages=[Logs("a"), Logs("b")]).run(executor, initial_tasks=numbers(1, 2, 5))
    assert [stage.metrics["number"] for stage in executor.last_report.stages] == [8.0, 8.0]


def test_an_attempt_that_fails_leaves_nothing_for_the_next_batch():
    options = {"on_task_failure": "quarantine", "max_attempts": 1, "capsules": False}
    executor = LocalExecutor(show_progress=False, **options)
    Pipeline(name="p", stages=[Logs("a"), Logs("b")]).run(executor, initial_tasks=numbers(-1, 2))
    assert "negative" not in executor.last_report.stages[0].metrics
    assert executor.last_report.stages[0].metrics["number"] == 2.0


@pytest.mark.parametrize("make", executors())
def test_a_record_for_each_call_of_curators_stages(make):
    executor = make()
    stages = [Logs("a"), Logs("b")]
    for index, stage in enumerate(stages):
        stage._curator_stage_id = f"{index:03}:{stage.name}"
    executor._set_stage_perf_collection_requested(True)
    Pipeline(name="p", stages=stages).run(executor, initial_tasks=numbers(0, 1, 2))
    records = executor.consume_external_perf_records()
    assert len(records) == 5, "also that of the task that was dropped"
    found = [(record["stage_id"], record["custom_metrics"]["number"]) for record in records.iter_dicts()]
    assert sorted(found) == [("000:a", 0), ("000:a", 1), ("000:a", 2), ("001:b", 1), ("001:b", 2)]
    records.cleanup()
