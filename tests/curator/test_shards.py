"""Curator's readers in shards: the sources are those that Curator's own filter for SLURM arrays keeps, cut once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nemo_curator.backends.slurm_array import SlurmArrayConfig, slurm_array_shard_for_task
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.tasks import EmptyTask, FileGroupTask

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.shards import Shard
from gpuexec.stage.sharding import is_in_shard

FILES = 9
PREFIX = "NEMO_CURATOR_SLURM_ARRAY_"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"file {number}"}))
    return folder


def read(executor, texts: Path) -> set[str]:
    stages = [JsonlReader(file_paths=str(texts), files_per_partition=1)]
    tasks = Pipeline(name="read", stages=stages).run(executor)
    rows = [text for task in tasks for text in task.to_pandas()["text"]]
    assert len(rows) == len(set(rows))
    return set(rows)


def kept_by_curator(texts: Path, shard: int, count: int) -> set[str]:
    kept = set()
    for number in range(FILES):
        task = FileGroupTask(dataset_name="d", data=[str(texts / f"{number}.jsonl")])
        task._set_task_id(EmptyTask().task_id, task.get_deterministic_id())
        if slurm_array_shard_for_task(task, SlurmArrayConfig(shard, count)) == shard:
            kept.add(f"file {number}")
    return kept


@given(st.text(min_size=1), st.integers(1, 100))
def test_the_rule_is_curators(path, count):
    task = FileGroupTask(dataset_name="d", data=[path])
    task._set_task_id(EmptyTask().task_id, task.get_deterministic_id())
    theirs = slurm_array_shard_for_task(task, SlurmArrayConfig(0, count))
    assert [k for k in range(count) if is_in_shard(task, Shard(k, count))] == [theirs]


@pytest.mark.parametrize("make", [LocalExecutor, InlineExecutor])
def test_shards_are_those_of_curator(texts, make):
    made = [read(make(shard=f"{k}/3", show_progress=False), texts) for k in range(3)]
    assert made == [kept_by_curator(texts, k, 3) for k in range(3)]
    assert set.union(*made) == {f"file {number}" for number in range(FILES)}


@pytest.mark.parametrize("make", [LocalExecutor, InlineExecutor])
def test_where_curators_filter_is_active_gpuexec_cuts_in_its_place(texts, make, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    executor = make(show_progress=False)
    assert read(executor, texts) == kept_by_curator(texts, 1, 3)
    assert executor.last_report.facts.options["shard"] == "1/3"


@pytest.mark.parametrize("make", [LocalExecutor, InlineExecutor])
def test_sources_are_not_cut_twice(texts, make, monkeypatch):
    """Both filters, each with another shard, would leave nothing, or a part of a part."""
    monkeypatch.setenv(f"{PREFIX}ENABLED", "1")
    monkeypatch.setenv(f"{PREFIX}SHARD_INDEX", "0")
    monkeypatch.setenv(f"{PREFIX}TOTAL_SHARDS", "3")
    assert read(make(shard="1/2", show_progress=False), texts) == kept_by_curator(texts, 1, 2)


def test_a_filter_that_is_switched_off_cuts_nothing(texts, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    monkeypatch.setenv(f"{PREFIX}ENABLED", "0")
    assert len(read(LocalExecutor(show_progress=False), texts)) == FILES


def test_an_array_that_begins_at_1_is_refused(texts, monkeypatch):
    """Curator's filter would give the last task nothing, and nobody the first shard."""
    for name, value in (("ID", "3"), ("COUNT", "3"), ("MIN", "1"), ("MAX", "3")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(ConfigurationError, match="no shard 3/3"):
        read(LocalExecutor(show_progress=False), texts)
    assert len(read(LocalExecutor(shard="auto", show_progress=False), texts)) == len(kept_by_curator(texts, 2, 3))
