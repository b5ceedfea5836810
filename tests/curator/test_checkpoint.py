"""Curator's own reader, filter and writer: a run that failed is continued where it stopped, file by file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.file_partitioning import FilePartitioningStage
from nemo_curator.stages.text.filters import ScoreFilter
from nemo_curator.stages.text.filters.heuristic import WordCountFilter
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.stages.text.io.writer import JsonlWriter
from nemo_curator.tasks import DocumentBatch
from nemo_curator.tasks.sentinels import FailedTask

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.checkpoint.history import Counts, read_history
from gpuexec.curator import registration
from gpuexec.curator.stage_facts import is_sink

FILES = 5
AT_FAULT = "poison"


class Faulty(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Fails at the word at fault, in the way that the file ``fault`` says, while that file exists."""

    name = "faulty"

    def __init__(self, fault: Path) -> None:
        self.fault = fault

    def process(self, task: DocumentBatch) -> DocumentBatch | FailedTask:
        if self.fault.exists() and task.to_pandas()["text"].str.contains(AT_FAULT).any():
            if self.fault.read_text() == "raise":
                raise LookupError("the word at fault")
            return FailedTask()
        return task


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        word = AT_FAULT if number == 3 else f"word{number}"
        rows = [{"text": f"{word} " * (10 * i)} for i in range(1, 10)]
        (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(texts: Path, target: Path, fault: Path, checkpoint: Path | None, **options) -> int:
    pipeline = Pipeline(name="text")
    pipeline.add_stage(JsonlReader(file_paths=str(texts), files_per_partition=1))
    pipeline.add_stage(ScoreFilter(filter_obj=WordCountFilter(min_words=50), text_field="text", score_field="words"))
    pipeline.add_stage(Faulty(fault))
    pipeline.add_stage(JsonlWriter(path=str(target)))
    return len(pipeline.run(LocalExecutor(show_progress=False, checkpoint=checkpoint, **options)))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.jsonl")}


def test_a_writer_is_a_sink_and_a_filter_is_none(tmp_path: Path):
    assert is_sink(JsonlWriter(path=str(tmp_path)))
    assert not is_sink(FilePartitioningStage(str(tmp_path)))
    assert not is_sink(Faulty(tmp_path))


@pytest.mark.parametrize("fault", ["raise", "give-up"])
def test_a_run_is_continued_where_it_stopped(texts: Path, tmp_path: Path, fault: str):
    note, target, checkpoint = tmp_path / "fault", tmp_path / "out", tmp_path / "checkpoint"
    assert run(texts, tmp_path / "undisturbed", note, None) == FILES

    note.write_text(fault)
    if fault == "raise":
        with pytest.raises(LookupError):
            run(texts, target, note, checkpoint)
    else:
        assert run(texts, target, note, checkpoint) == FILES - 1
        assert read_history(checkpoint).sources == Counts(done=FILES - 1, failed=1)
    done = read_history(checkpoint).sources.done

    note.unlink()
    assert run(texts, target, note, checkpoint) == FILES - done
    assert contents(target) == contents(tmp_path / "undisturbed")
    assert read_history(checkpoint).sources == Counts(done=FILES)
    assert run(texts, target, note, checkpoint) == 0


class Counting(ProcessingStage[DocumentBatch, DocumentBatch]):
    name = "counting"

    def __init__(self, log: Path) -> None:
        self.log = log

    def process(self, task: DocumentBatch) -> DocumentBatch:
        with self.log.open("a") as log:
            log.write("x")
        return task


@pytest.mark.parametrize("cluster", [False, True], ids=["no cluster", "with a cluster"])
def test_curators_own_checkpoint_path_uses_the_journal(texts: Path, tmp_path: Path, cluster: bool, monkeypatch):
    """With RAY_ADDRESS set, Curator would take it and record nothing; without, it would demand a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody answers there, and nobody must ask
    log = tmp_path / "log"

    def run_with(**options) -> int:
        pipeline = Pipeline(name="text")
        pipeline.add_stage(JsonlReader(file_paths=str(texts), files_per_partition=1))
        pipeline.add_stage(Counting(log))
        pipeline.add_stage(JsonlWriter(path=str(tmp_path / "out")))
        return len(pipeline.run(LocalExecutor(show_progress=False), **options))

    assert run_with(checkpoint_path=tmp_path / "checkpoint") == FILES
    assert run_with(checkpoint_path=str(tmp_path / "checkpoint")) == 0
    assert len(log.read_text()) == FILES
    assert read_history(tmp_path / "checkpoint").sources == Counts(done=FILES)


def test_curators_own_checkpoint_path_is_refused_where_it_has_no_effect(texts: Path, tmp_path: Path):
    pipeline = Pipeline(name="text", stages=[JsonlReader(file_paths=str(texts), files_per_partition=1)])
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints"):
        pipeline.run(InlineExecutor(), checkpoint_path=tmp_path / "checkpoint")


def test_another_version_of_curator_refuses_a_checkpoint_path_that_it_does_not_pass_on(tmp_path: Path):
    class OtherPipeline:
        def run(self, executor=None, initial_tasks=None, checkpoint_path=None):
            return executor, checkpoint_path

    registration._register_pipeline(SimpleNamespace(Pipeline=OtherPipeline))
    executor = LocalExecutor()
    assert OtherPipeline().run(executor) == (executor, None)
    assert OtherPipeline().run(None, checkpoint_path="c") == (None, "c")
    with pytest.raises(ConfigurationError, match=r"LocalExecutor\(checkpoint='c'\)"):
        OtherPipeline().run(executor, checkpoint_path="c")
