"""NeMo Curator's own pipelines, unchanged, on our executors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nemo_curator.backends.base import BaseExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.text.filters import ScoreFilter
from nemo_curator.stages.text.filters.heuristic import NonAlphaNumericFilter, WordCountFilter
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.stages.text.io.writer import JsonlWriter
from nemo_curator.tasks import DocumentBatch
from nemo_curator.tasks.utils import TaskPerfUtils
from nemo_curator.utils.performance_utils import StagePerfStats

from gpuexec import InlineExecutor, LocalExecutor
from tests.curator.version import VERSION

FILES = 4


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        rows = [{"text": "word " * (10 * i)} for i in range(1, 10)] + [{"text": "$ % & " * 100}]
        (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def text_pipeline(source: Path, target: Path) -> Pipeline:
    pipeline = Pipeline(name="text")
    pipeline.add_stage(JsonlReader(file_paths=str(source), files_per_partition=1))
    pipeline.add_stage(ScoreFilter(filter_obj=WordCountFilter(min_words=50), text_field="text", score_field="words"))
    pipeline.add_stage(ScoreFilter(filter_obj=NonAlphaNumericFilter(0.25), text_field="text"))
    pipeline.add_stage(JsonlWriter(path=str(target)))
    return pipeline


def rows_in(folder: Path) -> list[str]:
    return sorted(line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines())


def test_readers_filters_and_writers(texts: Path, tmp_path: Path):
    executor = LocalExecutor(show_progress=False)
    assert isinstance(executor, BaseExecutor)
    results = text_pipeline(texts, tmp_path / "local").run(executor)
    expected = text_pipeline(texts, tmp_path / "inline").run(InlineExecutor())
    assert [task.task_id for task in results] == [task.task_id for task in expected]
    assert rows_in(tmp_path / "local") == rows_in(tmp_path / "inline")
    assert len(rows_in(tmp_path / "local")) == FILES * 5


def test_stats_are_of_curators_class_and_counted_once(texts: Path, tmp_path: Path):
    results = text_pipeline(texts, tmp_path / "out").run(LocalExecutor(show_progress=False))
    expected = text_pipeline(texts, tmp_path / "inline").run(InlineExecutor())
    names = [[perf.stage_name for perf in task._stage_perf] for task in results]
    assert names == [[perf.stage_name for perf in task._stage_perf] for task in expected]
    assert len(names[0]) == len(set(names[0])) >= 4
    assert all(type(perf) is StagePerfStats for task in results for perf in task._stage_perf)
    metrics = TaskPerfUtils.collect_stage_metrics(results)
    assert all(len(metrics[stage]["process_time"]) == FILES for stage in names[0])
    assert "custom.gpuexec.input_bytes" in metrics[names[0][0]]


class Copies(ProcessingStage[DocumentBatch, DocumentBatch]):
    name = "copies"

    def process(self, task: DocumentBatch) -> list[DocumentBatch]:
        return [DocumentBatch("copies", task.data, _stage_perf=list(task._stage_perf)) for _ in range(50)]


@pytest.mark.skipif(VERSION.startswith("1.3."), reason=f"TaskPerfUtils of NeMo Curator {VERSION} counts each task")
def test_a_batch_that_fans_out_is_counted_once(texts: Path):
    stages = [JsonlReader(file_paths=str(texts), files_per_partition=1), Copies()]
    results = Pipeline(name="p", stages=stages).run(LocalExecutor(show_progress=False))
    assert len(results) == 50 * FILES
    metrics = TaskPerfUtils.collect_stage_metrics(results)
    assert [len(metrics[stage]["process_time"]) for stage in ("jsonl_reader", "copies")] == [FILES, FILES]


class UsesRay(ProcessingStage[DocumentBatch, DocumentBatch]):
    name = "uses_ray"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        import ray

        task._metadata["ray"] = ray.is_initialized()
        return task

    def setup(self, worker_metadata=None) -> None:
        self.worker = worker_metadata


def test_ray_is_started_in_no_worker(texts: Path):
    pipeline = Pipeline(name="p", stages=[JsonlReader(file_paths=str(texts), files_per_partition=1), UsesRay()])
    results = pipeline.run(LocalExecutor(show_progress=False))
    assert [task._metadata["ray"] for task in results] == [False] * FILES


class Fails(ProcessingStage[DocumentBatch, DocumentBatch]):
    name = "fails"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        raise LookupError(task.task_id)


def test_a_stages_exception_keeps_its_type(texts: Path):
    pipeline = Pipeline(name="p", stages=[JsonlReader(file_paths=str(texts), files_per_partition=1), Fails()])
    with pytest.raises(LookupError) as caught:
        pipeline.run(LocalExecutor(show_progress=False))
    assert "stage 'fails'" in caught.value.__notes__[0]


def test_a_filter_that_drops_everything(texts: Path):
    class DropAll(ProcessingStage[DocumentBatch, DocumentBatch]):
        name = "drop_all"

        def process(self, task: DocumentBatch) -> None:
            return None

    pipeline = Pipeline(name="p", stages=[JsonlReader(file_paths=str(texts), files_per_partition=1), DropAll()])
    assert pipeline.run(LocalExecutor(show_progress=False)) == []
