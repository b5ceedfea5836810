"""What the adapter does around a stage's batch: ids, markers, stats, errors."""

from __future__ import annotations

import pytest
from loguru import logger

from gpuexec import BaseStageAdapter, EmptyTask, NodeInfo, ProcessingStage, StageContractError, WorkerMetadata
from tests.unit.contract.stages import GivesUp, Keyed, Returns, Short, Split, Upper, Words, words


def ids(stage, *tasks):
    return [task.task_id for task in BaseStageAdapter(stage).process_batch(list(tasks))]


def test_one_to_one_extends_each_path():
    assert ids(Upper(), words("a", task_id="0_0"), words("b", task_id="0_7")) == ["0_0_0", "0_7_0"]


def test_one_to_many_numbers_the_children():
    assert ids(Split(), words("a", "b", "c", task_id="0_2")) == ["0_2_0", "0_2_1", "0_2_2"]


def test_a_stage_that_returns_its_input_reads_the_parent_once():
    task = words("a", task_id="0_5")
    assert ids(Returns([task, words("b")]), task) == ["0_5_0", "0_5_1"]


def test_a_dropped_slot_keeps_the_others_ids():
    assert ids(Short(), words("a", task_id="0_0"), words(*"abc", task_id="0_1"), words("d", task_id="0_2")) == [
        "0_0_0",
        "0_2_0",
    ]


def test_outputs_that_cannot_be_matched_get_random_ids():
    made = ids(Returns([words("x"), words("y"), words("z")]), words("a"), words("b"))
    assert all(task_id.startswith("r") and len(task_id) == 33 for task_id in made)
    assert len(set(made)) == 3


def test_a_source_uses_deterministic_ids():
    stage = Returns([Keyed("d", ["k"]), Words("d", ["w"])])
    assert ids(stage, EmptyTask()) == ["0_0", "0_1"]
    stage.is_source_stage = True
    assert ids(stage, EmptyTask()) == ["0_k", "0_1"]


def test_markers_are_dropped_and_failures_logged():
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        made = ids(GivesUp(), words("ok", task_id="0_0"), words("bad", task_id="0_1"), words("none", task_id="0_2"))
    finally:
        logger.remove(handler)
    assert made == ["0_0_0"]
    assert any("returned 1 task(s) of a batch as FailedTask" in line for line in lines)


def test_a_source_must_not_fail_a_task():
    stage = GivesUp()
    stage.is_source_stage = True
    with pytest.raises(ValueError, match="Source stage gives_up emitted FailedTask"):
        ids(stage, words("bad"))


def test_every_output_carries_the_batchs_stats():
    class Counts(Upper):
        def process(self, task):
            self._log_metric("letters", sum(map(len, task.data)))
            with self._time_metric("pause"):
                return super().process(task)

    adapter = BaseStageAdapter(Counts())
    first, second = adapter.process_batch([words("a", "b"), words("ccc")])
    stats = adapter.last_stats
    assert first._stage_perf[-1] is second._stage_perf[-1] is stats
    assert (stats.stage_name, stats.num_items_processed) == ("upper", 3)
    assert stats.process_time > 0
    assert stats.custom_metrics["letters"] == 3.0, "the last value of the batch, as Curator keeps it"
    assert stats.custom_metrics["pause"] >= 0
    assert stats.input_data_size_mb == 3 / 2**20
    adapter.process_batch([words("a")])
    assert adapter.last_stats.custom_metrics["letters"] == 1.0
    assert adapter.last_stats.actor_idle_time >= 0


def test_a_batch_that_fails_leaves_no_stats():
    adapter = BaseStageAdapter(Upper())
    adapter.process_batch([words("a")])
    with pytest.raises(AttributeError):
        adapter.process_batch([words("a"), 3])
    assert adapter.last_stats is None


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "got NoneType; return [] if all tasks are dropped"),
        ("text", "got str"),
        ({}, "got dict"),
        (words("a"), "got Words; wrap the one task in a list"),
        ([3], "returned a int instead of a Task"),
        ([Words], "(the class, not an instance)"),
        ([[words("a")]], "returned a list instead of a Task"),
    ],
)
def test_a_wrong_return_says_what_was_found_and_what_was_expected(returned, message):
    with pytest.raises(StageContractError) as caught:
        ids(Returns(returned), words("a"))
    assert "'returns'" in str(caught.value)
    assert message in str(caught.value)


def test_any_iterable_of_tasks_will_do():
    assert ids(Returns(words(w) for w in "ab"), words("x"), words("y", task_id="0_1")) == ["0_0_0", "0_1_0"]


def test_the_life_cycle_is_passed_on():
    calls = []

    class Journal(Upper):
        def setup_on_node(self, node_info=None, worker_metadata=None):
            calls.append(("node", node_info.node_id, worker_metadata.worker_id))

        def setup(self, worker_metadata=None):
            calls.append(("setup", worker_metadata.worker_id))

        def teardown(self):
            calls.append(("teardown",))

    adapter, worker = BaseStageAdapter(Journal()), WorkerMetadata("w")
    adapter.setup_on_node(NodeInfo("n"), worker)
    adapter.setup(worker)
    adapter.teardown()
    assert calls == [("node", "n", "w"), ("setup", "w"), ("teardown",)]


def test_an_input_that_lacks_what_is_declared_fails_loudly():
    class Needs(Upper):
        def inputs(self):
            return ["data", "label"], []

    with pytest.raises(ValueError, match="failed validation for stage"):
        ids(Needs(), words("a"))


class Abstract(ProcessingStage):
    """Has no process()."""


def test_a_stage_without_process_cannot_be_made():
    with pytest.raises(TypeError, match="process"):
        Abstract()
