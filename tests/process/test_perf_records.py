"""What NeMo Curator's pipeline asks an executor for: one record for each call of a stage that went through."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gpuexec import BaseExecutor, InlineExecutor, LocalExecutor, Pipeline, ProcessingStage
from gpuexec.curator import perf_records
from gpuexec.curator.perf_records import PerformanceRecords
from tests.process.running import local_executor, logged
from tests.process.stages import Apply, Item, items, same

FIELDS = {
    "stage_name",
    "stage_id",
    "invocation_id",
    "process_time",
    "actor_idle_time",
    "num_items_processed",
    "custom_metrics",
    "window_start_s",
    "window_end_s",
}


class FansOut(ProcessingStage[Item, Item]):
    """Makes nothing of 1, and three of others; raises about 4. Takes ``batch_size`` tasks at once."""

    name = "fans_out"

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size

    def process(self, task: Item) -> list[Item]:
        self._log_metric("seen", 1.0)
        if task.data == 4:
            raise LookupError(task.data)
        return [] if task.data == 1 else items(task.data, task.data, task.data)


def recorded(executor: BaseExecutor, stages: list[ProcessingStage], tasks: list[Item]) -> PerformanceRecords:
    """Do what Curator's pipeline does."""
    executor._set_stage_perf_collection_requested(True)
    try:
        executor.execute(stages, tasks)
    finally:
        executor._set_stage_perf_collection_requested(False)
    return executor.consume_external_perf_records()


@pytest.mark.parametrize("make", [local_executor, InlineExecutor])
def test_a_record_for_each_call_whatever_came_out(make):
    before = time.time()
    stages = [FansOut(), Apply(same).with_(fuse=False)]
    stages[0]._curator_stage_id = "000:fans_out"
    with recorded(make(), stages, items(1, 2, 3)) as records:
        found = list(records)
        assert found == list(records.iter_dicts()), "they can be read again"
        assert len(records) == len(found) == 3 + 6
    assert all(set(record) == FIELDS for record in found)
    first = [record for record in found if record["stage_name"] == "fans_out"]
    assert {record["stage_id"] for record in first} == {"000:fans_out"}
    assert {record["stage_id"] for record in found if record["stage_name"] == "apply"} == {""}
    assert len({record["invocation_id"] for record in found}) == 9
    for record in first:
        assert record["num_items_processed"] == 1
        assert record["custom_metrics"]["seen"] == 1.0
        assert before <= record["window_start_s"] <= record["window_end_s"] <= time.time()
        assert 0 <= record["process_time"] <= record["window_end_s"] - record["window_start_s"] + 1e-3


def test_fused_stages_have_records_of_their_own():
    found = list(recorded(local_executor(), [Apply(same, "a"), Apply(same, "b")], items(*range(50))))
    assert sorted({record["stage_name"] for record in found}) == ["a", "b"]
    assert len(found) == 100


def test_batches_are_counted_as_such():
    stages = [FansOut(batch_size=2)]
    found = list(recorded(local_executor(), stages, items(2, 3, 2, 3, 2)))
    assert sorted(record["num_items_processed"] for record in found) == [1, 2, 2]


def test_a_call_that_failed_has_no_record():
    """The batch is halved until the task at fault is alone: what was tried with it is not counted."""
    executor = local_executor(on_task_failure="quarantine", capsules=False)
    found = list(recorded(executor, [FansOut(batch_size=4)], items(2, 3, 4, 5)))
    assert sum(record["num_items_processed"] for record in found) == 3


def test_without_a_request_there_are_none(tmp_path: Path):
    executor = local_executor()
    executor.execute([Apply(same)], items(1))
    assert len(executor.consume_external_perf_records()) == 0


@pytest.mark.parametrize("make", [local_executor, InlineExecutor])
def test_a_run_that_fails_leaves_no_records_and_no_file(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    executor = make()
    recorded(executor, [Apply(same)], items(1)).close()
    with pytest.raises(LookupError):
        recorded(executor, [FansOut()], items(4))
    assert len(executor.consume_external_perf_records()) == 0
    assert list(tmp_path.glob("gpuexec-perf-*")) == []


def test_the_file_goes_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    records = recorded(InlineExecutor(), [Apply(same)], items(1))
    assert Path(records.path).exists()
    assert len(InlineExecutor().consume_external_perf_records()) == 0
    del records
    assert list(tmp_path.glob("gpuexec-perf-*")) == []


def test_more_records_than_the_limit_are_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(perf_records, "MAX_RECORDS", 3)
    with logged() as lines:
        assert len(recorded(InlineExecutor(), [Apply(same)], items(*range(5)))) == 3
    assert any("2 calls after the first 3 are left out" in line for line in lines)


def test_records_that_cannot_be_written_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    with logged() as lines:
        assert len(recorded(InlineExecutor(), [Apply(same)], items(1))) == 0
    assert any("there are no performance records: they could not be written" in line for line in lines)


def test_without_a_place_for_temporary_files_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with logged() as lines:
        assert len(recorded(InlineExecutor(), [Apply(same)], items(1))) == 0
    assert any("there are no performance records" in line for line in lines)


def test_other_executors_refuse_before_the_run():
    class Other(BaseExecutor):
        def execute(self, stages, initial_tasks=None):
            return []

    with pytest.raises(NotImplementedError, match="Other does not record"):
        Other()._set_stage_perf_collection_requested(True)
    Other()._set_stage_perf_collection_requested(False)
    assert len(Other().consume_external_perf_records()) == 0


def test_a_pipeline_of_ours_runs_as_ever_with_an_executor_that_was_asked():
    executor = LocalExecutor(show_progress=False)
    executor._set_stage_perf_collection_requested(True)
    assert [task.data for task in Pipeline("p", stages=[Apply(same)]).run(executor, items(1))] == [1]
    assert len(executor.consume_external_perf_records()) == 1
