"""The main job: what comes out, in which order and with which stats, and the life cycle of a stage."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from loguru import logger

from gpuexec import Pipeline, ProcessingStage, Resources, StagePerfStats
from gpuexec.core.decide import StartReason
from tests.process.running import ROOT, Ran, ids_and_data, local_executor, run_inline, run_local, run_python
from tests.process.stages import (
    Apply,
    Item,
    Journal,
    Range,
    big_array,
    close_stdin_and_print,
    double,
    drop,
    environment,
    items,
    loaded_modules,
    write_into,
)
from tests.process.stages.transforms import DropOdd, FanOut


def test_returns_what_the_inline_executor_returns():
    def stages() -> list[ProcessingStage]:
        return [Range(200), Apply(double).with_(batch_size=7), FanOut(), DropOdd()]

    expected, actual = run_inline(stages()), run_local(stages()).tasks
    assert ids_and_data(actual) == ids_and_data(expected)
    assert [[p.stage_name for p in t._stage_perf] for t in actual] == [
        [p.stage_name for p in t._stage_perf] for t in expected
    ]


def test_a_filter_that_drops_everything_gives_an_empty_list_and_a_report():
    ran = run_local([Range(20), Apply(drop)])
    assert ran.tasks == []
    dropped = ran.report.stages[1]
    assert (dropped.tasks_in, dropped.tasks_out, dropped.batches) == (20, 0, 20)


def test_initial_tasks_get_ids_below_the_root():
    ran = run_local([Apply(double)], items(1, 2, 3))
    assert ids_and_data(ran.tasks) == [("0_0_0", 2), ("0_1_0", 4), ("0_2_0", 6)]


@pytest.fixture(scope="module")
def ran() -> Ran:
    """An ordinary run, of 30 tasks in 6 batches."""
    return run_local([Range(30), Apply(double).with_(batch_size=5)])


def test_every_task_carries_the_stats_of_every_stage(ran: Ran):
    for task in ran.tasks:
        assert [p.stage_name for p in task._stage_perf] == ["range", "apply"]
        assert all(isinstance(p, StagePerfStats) and p.process_time > 0 for p in task._stage_perf)
        assert task._stage_perf[1].num_items_processed == 5
        assert task._stage_perf[1].custom_metrics["gpuexec.input_bytes"] > 0
    assert len({id(t._stage_perf[1]) for t in ran.tasks}) == 6, "one object a batch, shared by its tasks"
    assert len({id(t._stage_perf[0]) for t in ran.tasks}) == 1


def test_life_cycle_of_a_stage(tmp_path: Path):
    log = tmp_path / "log"
    # Both workers are there before the first task is done, so the run cannot end before the second's setup.
    stage = Journal(log, workers=2, await_setups=2)
    run_local([stage], items(*range(8)))
    lines = [line.split() for line in log.read_text().splitlines()]
    calls = [words[1] for words in lines]
    assert calls.count("setup_on_node") == 1
    assert calls[0] == "setup_on_node"
    assert lines[0][2] == socket.gethostname()
    setups = [words for words in lines if words[1] == "setup"]
    numbers, runs = zip(*(words[2].rsplit("-", 1) for words in setups), strict=True)
    assert sorted(numbers) == ["journal-0", "journal-1"]
    assert len(set(runs)) == 1, "the run's id: a stage may name a file after its worker, and another run must not"
    assert {words[3] for words in setups} == {"Allocation"}
    assert len({words[0] for words in setups}) == 2
    assert lines[0][0] not in {words[0] for words in setups}, "setup_on_node has a process of its own"
    assert calls.count("teardown") == 2
    assert sorted(int(words[2]) for words in lines if words[1] == "process") == list(range(8))
    assert str(os.getpid()) not in {words[0] for words in lines}


def test_teardown_runs_when_the_run_fails(tmp_path: Path):
    log = tmp_path / "log"
    run_local([Journal(log, workers=2, fail_on=3)], items(*range(8)), raises=LookupError)
    calls = [line.split()[1] for line in log.read_text().splitlines()]
    assert calls.count("teardown") == calls.count("setup") >= 1


def test_arrays_arrive_writable_and_private():
    ran = run_local([Apply(big_array, "make"), Apply(write_into, "add")], items(*range(12)))
    assert ran.data == [1_000_000 * (i + 1) for i in range(12)]


def test_result_arrays_belong_to_the_caller():
    (task,) = run_local([Apply(big_array)], items(7)).tasks
    task.data += 1
    assert np.all(task.data == 8)


def test_a_cpu_worker_sees_no_gpu_and_capped_threads():
    (task,) = run_local([Apply(environment)], items(0)).tasks
    assert task.data["CUDA_VISIBLE_DEVICES"] == ""
    assert task.data["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert task.data["OMP_NUM_THREADS"] == "1"


def test_stage_and_executor_set_environment_variables():
    of_the_run = {"env_vars": {"A": "executor", "B": "executor"}}
    stage = Apply(environment).with_(runtime_env={"env_vars": {"B": "stage", "OMP_NUM_THREADS": "5"}})
    (task,) = run_local([stage], items(0), runtime_env=of_the_run).tasks
    assert (task.data["A"], task.data["B"], task.data["OMP_NUM_THREADS"]) == ("executor", "stage", "5")


def test_a_native_worker_imports_nothing_heavy():
    (task,) = run_local([Apply(loaded_modules)], items(0)).tasks
    assert not {"nemo_curator", "ray", "pynvml", "torch", "loguru", "rich", "typer"} & set(task.data)


def test_stages_of_a_script_travel_by_value():
    class Local(ProcessingStage):
        name = "local"
        resources = Resources(cpus=0.5)

        def process(self, task):
            task.data += offset
            return task

    offset = 40
    (task,) = run_local([Local()], items(2)).tasks
    assert task.data == 42


SCRIPT = """
from gpuexec import LocalExecutor, Pipeline, ProcessingStage
from tests.process.stages import items

class Mine(ProcessingStage):
    name = "mine"
    def process(self, task):
        task.data = helper(task.data)
        return task

def helper(value):
    return value * 10

out = Pipeline("p", stages=[Mine()]).run(LocalExecutor(show_progress=False), initial_tasks=items(1, 2))
print([task.data for task in out])
"""


def test_a_script_without_a_guard_and_one_on_stdin(tmp_path: Path):
    """As in a notebook or a shell's here-document: no __main__ guard, no file to import."""
    (tmp_path / "script.py").write_text(SCRIPT)
    for arguments, typed in ((["-"], SCRIPT), ([tmp_path / "script.py"], ""), (["-c", SCRIPT], "")):
        done = run_python(*arguments, typed=typed, PYTHONPATH=str(ROOT))
        assert (done.stdout, done.stderr) == ("[10, 20]\n", "")


def test_prints_and_a_closed_stdin_do_not_disturb():
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(str(message).rstrip("\n")), format="{extra[worker]} {message}")
    try:
        ran = run_local([Apply(close_stdin_and_print)], items(*range(50)))
    finally:
        logger.remove(handler)
    assert ran.data == list(range(50))
    workers = {line.split()[0] for line in lines if "printed" in line}
    for worker in workers:
        numbers = [int(line.split()[-1]) for line in lines if line.startswith(worker) and "printed" in line]
        assert numbers == sorted(numbers), "in order per worker"
    assert sum("complained" in line for line in lines) == 50


class Logs(ProcessingStage):
    name = "logs"

    def process(self, task):
        logger.bind(x=1).warning("said {} with {{braces}}", task.data)
        return task


def test_loguru_lines_arrive_with_stage_and_worker():
    records, texts = [], []
    handler = logger.add(
        lambda message: (records.append(message.record), texts.append(str(message))), level="WARNING", format="{time}"
    )
    try:
        run_local([Logs()], items(*range(20)))
    finally:
        logger.remove(handler)
    assert len(records) == 20
    assert all(text.startswith("20") for text in texts), "a time that loguru can format"
    assert {r["extra"]["stage"] for r in records} == {"logs"}
    assert all(r["extra"]["worker"].startswith("logs-") and r["level"].name == "WARNING" for r in records)
    assert all(r["name"] == __name__ and r["function"] == "process" for r in records)
    assert {r["message"].split(" | ")[1] for r in records} == {f"said {i} with {{braces}}" for i in range(20)}


def test_the_report_accounts_for_every_task(ran: Ran):
    report = ran.report
    assert report.error is None
    assert report.wall_s > 0
    assert [(s.tasks_in, s.tasks_out) for s in report.stages] == [(1, 30), (30, 30)]
    assert report.stages[1].batches == 6
    assert report.workers[0].start_reason == StartReason.FIRST
    assert all(w.exit_code == 0 and w.teardown_s is not None and w.spawn_s > 0 for w in report.workers)


def test_two_stages_of_the_same_name():
    ran = run_local([Apply(double), Apply(double)], items(1), fusion="off")
    assert ran.data == [4]
    assert {w.worker_id for w in ran.report.workers} == {"apply-0", "apply#2-0"}


@pytest.mark.parametrize("threshold", [(700, 10, 10), (500_000, 5, 5), (0, 10, 10)])
def test_the_callers_garbage_collector_is_left_as_it_was(threshold):
    before = gc.get_threshold()
    gc.set_threshold(*threshold)
    try:
        run_local([Range(3)])
        assert gc.get_threshold() == threshold
    finally:
        gc.set_threshold(*before)


def test_an_executor_can_run_again():
    executor = local_executor()
    for _ in range(2):
        assert len(Pipeline("p", stages=[Range(3)]).run(executor)) == 3


def test_an_item_that_does_not_fit_one_chunk_of_the_socket():
    text = "x" * 60_000  # inline, several of them in a message
    ran = run_local([Apply(len)], items(*[text] * 300))
    assert set(ran.data) == {60_000}
    assert isinstance(ran.tasks[0], Item)
