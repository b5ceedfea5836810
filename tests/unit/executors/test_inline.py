"""The inline executor: the contract in one process, for debuggers."""

from __future__ import annotations

import os
import threading

import pytest
from loguru import logger

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor, Pipeline, events
from gpuexec.report.store import find_run
from tests.process import stages
from tests.process.stages import Apply, Journal, items
from tests.unit.contract.stages import Split, Upper, Words


class Reads(Upper):
    """Returns what it sees of its environment."""

    name = "reads"

    def setup(self, worker_metadata=None):
        self.worker = worker_metadata

    def process(self, task):
        value = os.environ.get("GPUEXEC_TEST", "unset")
        return Words("d", [value, self.worker.worker_id, str(os.getpid())])


def test_a_stage_runs_in_this_process_with_its_variables(monkeypatch):
    monkeypatch.setenv("GPUEXEC_TEST", "outer")
    stage = Reads().with_(runtime_env={"env_vars": {"GPUEXEC_TEST": "inner", "GPUEXEC_OTHER": 1}})
    (task,) = Pipeline("p", stages=[stage]).run(InlineExecutor())
    assert task.data == ["inner", "reads-0", str(os.getpid())]
    assert os.environ["GPUEXEC_TEST"] == "outer"
    executor = InlineExecutor(runtime_env={"env_vars": {"GPUEXEC_TEST": "executor"}})
    (task,) = Pipeline("p", stages=[Reads()]).run(executor)
    assert task.data[0] == "executor"
    assert "GPUEXEC_OTHER" not in os.environ


def test_other_parts_of_a_runtime_env_are_reported_as_ignored():
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        Pipeline("p", stages=[Reads().with_(runtime_env={"nsight": "x"})]).run(InlineExecutor())
    finally:
        logger.remove(handler)
    assert any("runtime_env ['nsight'] is ignored" in line for line in lines)


def test_the_life_cycle_and_teardown_after_a_failure(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(LookupError, match="no 2"):
        Pipeline("p", stages=[Journal(log, fail_on=2)]).run(InlineExecutor(), initial_tasks=items(1, 2, 3))
    calls = [line.split()[1] for line in log.read_text().splitlines()]
    assert calls == ["setup_on_node", "setup", "process", "process", "teardown"]


def test_an_empty_list_of_tasks_is_curators_empty_task_and_warned_about():
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        out = Pipeline("p", stages=[stages.Range(2)]).run(InlineExecutor(), initial_tasks=[])
    finally:
        logger.remove(handler)
    assert [task.data for task in out] == [0, 1]
    assert any("initial_tasks is an empty list" in line for line in lines)


@pytest.mark.parametrize("executor", [InlineExecutor, LocalExecutor])
@pytest.mark.parametrize("wrong", [None, "text", Words])
def test_an_initial_task_that_is_not_a_task(executor, wrong):
    with pytest.raises(ConfigurationError, match=r"initial task 1 is .*, not a Task"):
        Pipeline("p", stages=[Upper()]).run(executor(), initial_tasks=[Words("d", []), wrong])


@pytest.mark.parametrize("task_id", [5, ("a", 1), ["a"], b"b", float("nan")], ids=str)
def test_an_id_that_is_no_text_becomes_one(task_id):
    (task,) = items(1)
    task.task_id = task_id
    executor = InlineExecutor(show_progress=False)
    (made,) = executor.execute([Apply(stages.same), Apply(stages.same, "second")], [task])
    assert made.task_id == f"{task_id}_0_0"
    assert find_run(executor.last_report.folder).report()["slowest"][-1]["task_ids"][0].startswith(str(task_id))


def test_tasks_given_to_execute_get_ids_too():
    out = InlineExecutor().execute([Upper()], [Words("d", ["a"]), Words("d", ["b"])])
    assert [task.task_id for task in out] == ["0_0_0", "0_1_0"]


def test_batches_are_cut_to_size():
    out = Pipeline("p", stages=[Split(), Upper().with_(batch_size=2)]).run(
        InlineExecutor(), initial_tasks=[Words("d", list("abcde"))]
    )
    assert [task.data for task in out] == [["A"], ["B"], ["C"], ["D"], ["E"]]
    assert [task._stage_perf[-1].num_items_processed for task in out] == [2, 2, 2, 2, 1]


def test_an_exception_passes_through_as_it_is():
    with pytest.raises(stages.Choosy) as caught:
        Pipeline("p", stages=[Apply(stages.raise_choosy)]).run(InlineExecutor(), initial_tasks=items(1))
    assert caught.traceback[-1].name == "raise_choosy", "the debugger's frames are the stage's own"


class KeepsState(Upper):
    """Changes itself and its task in every way."""

    name = "keeps_state"

    def __init__(self):
        self.seen = []

    def setup(self, worker_metadata=None):
        self.lock = threading.Lock()

    def process(self, task):
        self.seen.append(task.task_id)
        task.data.append("changed")
        return task


def test_stages_and_tasks_stay_as_they_were():
    stage, task = KeepsState(), Words("d", ["a"])
    (out,) = Pipeline("p", stages=[stage]).run(InlineExecutor(), initial_tasks=[task])
    assert out.data == ["a", "changed"]
    assert (task.data, task._stage_perf) == (["a"], [])
    assert stage.seen == []
    assert "lock" not in vars(stage)


def test_a_stage_that_cannot_be_copied_in_depth_still_runs():
    stage = KeepsState()
    stage.setup()
    lock = stage.lock
    Pipeline("p", stages=[stage]).run(InlineExecutor(), initial_tasks=[Words("d", ["a"])])
    assert stage.lock is lock


class SetsOnNode(Upper):
    name = "sets_on_node"

    def setup_on_node(self, node_info=None, worker_metadata=None):
        self.prepared = 5

    def process(self, task):
        return Words("d", [str(self.prepared)])


@pytest.mark.parametrize("executor", [InlineExecutor, LocalExecutor])
def test_what_setup_on_node_sets_on_the_stage_is_lost_and_the_error_says_so(executor):
    with pytest.raises(AttributeError) as caught:
        Pipeline("p", stages=[SetsOnNode()]).run(executor(show_progress=False, capsules=False))
    assert any("setup_on_node() of stage 'sets_on_node' sets 'prepared'" in note for note in caught.value.__notes__)


def test_an_inline_run_has_a_report():
    executor = InlineExecutor(show_progress=False)
    Pipeline("p", stages=[stages.Range(5), Apply(stages.double)]).run(executor)
    report = executor.last_report
    assert [(stage.name, stage.tasks_in, stage.tasks_out) for stage in report.stages] == [
        ("range", 1, 5),
        ("apply", 5, 5),
    ]
    assert report.error is None
    assert report.wall_s >= sum(stage.process_s for stage in report.stages) > 0
    assert [worker.exit_code for worker in report.workers] == [0, 0]
    assert all(worker.setup_s is not None and worker.teardown_s is not None for worker in report.workers)


def test_the_report_of_an_inline_run_that_fails():
    executor = InlineExecutor(show_progress=False)
    with pytest.raises(ConnectionError):
        Pipeline("p", stages=[Apply(stages.fail)]).run(executor, initial_tasks=items(1))
    assert executor.last_report.error == "ConnectionError: refused raised in process() of stage 'apply', tasks 0_0"


def test_an_inline_run_whose_error_has_no_text_raises_that_error():
    executor = InlineExecutor(show_progress=False)
    with pytest.raises(stages.Mute):
        Pipeline("p", stages=[Apply(stages.raise_mute)]).run(executor, initial_tasks=items(1))
    assert "Mute" in executor.last_report.error


@pytest.mark.parametrize(("error", "interrupted"), [(KeyboardInterrupt, True), (SystemExit, True), (ValueError, False)])
def test_an_inline_run_that_is_ended_from_outside_has_not_failed(error, interrupted):
    class Ends:
        def on_event(self, event):
            if isinstance(event, events.BatchesFinished) and error is not ValueError:
                raise error

    executor = InlineExecutor(show_progress=False, observers=[Ends()])
    function = stages.raise_hash if error is ValueError else stages.same
    with pytest.raises(error):
        Pipeline("p", stages=[Apply(function)]).run(executor, initial_tasks=items(1))
    assert executor.last_report.interrupted is interrupted
    assert find_run(executor.last_report.folder).summary().outcome == ("interrupted" if interrupted else "failed")


def test_an_observer_that_ends_an_inline_run_at_its_end_leaves_its_folder_complete():
    class Ends:
        def on_event(self, event):
            if isinstance(event, events.RunEnded):
                raise SystemExit

    executor = InlineExecutor(show_progress=False, observers=[Ends()])
    with pytest.raises(SystemExit):
        Pipeline("p", stages=[Apply(stages.same)]).run(executor, initial_tasks=items(1))
    assert find_run(executor.last_report.folder).summary().outcome == "ok"


def test_an_inline_run_shows_progress(capsys):
    Pipeline("p", stages=[Apply(stages.rest)]).run(
        InlineExecutor(progress_interval_s=0.1), initial_tasks=items(1, 2, 3)
    )
    assert "apply 2/3 done, 1 queued" in capsys.readouterr().err
