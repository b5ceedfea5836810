"""Batches that fail: what is tried again, where, how often, and what is put aside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuexec import InlineExecutor, LocalExecutor, Pipeline, ProcessingStage, ResultNotPicklable, WorkerDied
from gpuexec.core.retries import Action, DecisionReason
from tests.process import stages
from tests.process.stages import Apply, Item, items

ROOT = Path(__file__).parents[2]
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ConnectionError("refused")


class Fragile(ProcessingStage[Item, Item]):
    """Does ``end`` at some items, the first ``times`` it comes to each; keeps count in ``folder``."""

    name = "fragile"

    def __init__(self, folder: Path, end: Callable[[], None], at: set[int], times: int = 1000) -> None:
        self.folder = folder
        self.end = end
        self.at = at
        self.times = times

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        log = self.folder / f"item {task.data}"
        with log.open("a") as out:
            out.write(f"{os.getpid()}\n")
        if task.data in self.at and len(self.attempts(task.data)) <= self.times:
            self.end()
        return Item(task.dataset_name, task.data * 2)

    def attempts(self, value: int) -> list[int]:
        """Pids of the processes that came to an item."""
        return [int(line) for line in (self.folder / f"item {value}").read_text().split()]


def executor(**options: Any) -> LocalExecutor:
    return LocalExecutor(show_progress=False, **{"capsules": "capsule_dir" in options, **options})


def run(stage: ProcessingStage, count: int, using: Any) -> list[tuple[str, Any]]:
    return [(t.task_id, t.data) for t in Pipeline("p", stages=[stage]).run(using, initial_tasks=items(*range(count)))]


def undisturbed(count: int, batch_size: int = 1) -> list[tuple[str, Any]]:
    return run(Apply(stages.double).with_(batch_size=batch_size), count, InlineExecutor())


# ---- again -------------------------------------------------------------------------------------------------


def test_a_batch_whose_worker_dies_is_done_by_a_fresh_one(tmp_path: Path):
    local = executor(capsule_dir=tmp_path / "capsules")
    stage = Fragile(tmp_path, die, at={2}, times=2)
    assert run(stage, 5, local) == undisturbed(5)
    assert len(set(stage.attempts(2))) == 3, "a process each"
    report = local.last_report
    assert [f.task_ids for f in report.failures] == [("0_2",)] * 2
    assert [f.action for f in report.failures] == [Action.RETRY] * 2
    assert len(report.workers) == 3
    assert report.stages[0].failed_attempts == 2
    assert report.stages[0].tasks_in == 5
    assert not (tmp_path / "capsules").exists(), "capsules are for what stays undone"


def test_attempts_are_limited_and_told(tmp_path: Path):
    local = executor(max_attempts=2, capsule_dir=tmp_path / "capsules")
    with pytest.raises(WorkerDied) as caught:
        run(Fragile(tmp_path, die, at={2}), 5, local)
    assert caught.value.task_ids[0] == "0_2"
    (note,) = caught.value.__notes__
    assert re.match(r"attempt 2 of 2; earlier attempts: killed by SIGKILL.*\(fragile-0\)", note)
    assert [(f.action, f.reason) for f in local.last_report.failures] == [
        (Action.RETRY, DecisionReason.ATTEMPTS_LEFT),
        (Action.RAISE, DecisionReason.ATTEMPTS_SPENT),
    ]


def test_the_dead_workers_other_batches_are_not_blamed(tmp_path: Path):
    """Each of three neighbours kills a worker that had the following ones in hand too."""
    local = executor(max_attempts=2)
    assert run(Fragile(tmp_path, die, at={20, 21, 22}, times=1), 60, local) == undisturbed(60)
    assert [f.task_ids for f in local.last_report.failures] == [("0_20",), ("0_21",), ("0_22",)]


def test_exceptions_are_retried_if_asked(tmp_path: Path):
    local = executor(retry_on=ConnectionError)
    stage = Fragile(tmp_path, fail, at={1, 3}, times=2)
    assert run(stage, 5, local) == undisturbed(5)
    assert len(set(stage.attempts(1))) == 1, "the process is not at fault"
    assert len(local.last_report.failures) == 4
    assert len(local.last_report.workers) == 1


def test_exceptions_are_retried_in_another_process_if_asked(tmp_path: Path):
    local = executor(retire_on="ConnectionError")
    stage = Fragile(tmp_path, fail, at={1}, times=2)
    assert run(stage, 5, local) == undisturbed(5)
    assert len(set(stage.attempts(1))) == 3
    assert all(worker.exit_code == 0 for worker in local.last_report.workers), "they were told to stop"


def test_an_exception_that_stays_is_raised_with_its_attempts(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1})
    with pytest.raises(ConnectionError, match="refused") as caught:
        run(stage, 5, executor(retry_on=OSError))
    assert any(note.startswith("attempt 3 of 3; earlier attempts: ") for note in caught.value.__notes__)
    assert len(stage.attempts(1)) == 3


def test_other_exceptions_are_not_retried(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1})
    with pytest.raises(ConnectionError):
        run(stage, 5, executor(retry_on=TimeoutError))
    assert len(stage.attempts(1)) == 1


class Overwrites(Fragile):
    """Adds one to its input in place, then dies the first time."""

    def process(self, task: Item) -> Item:
        task.data += 1
        first = not (self.folder / "been here").exists()
        (self.folder / "been here").touch()
        if first:
            self.end()
        return Item(task.dataset_name, task.data)


@pytest.mark.parametrize("end", [die, fail])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_is_done_again_as_it_was_sent(tmp_path: Path, end: Any, batch_size: int):
    """Large arrays travel in shared memory: what the first attempt did to them must not be seen by the second."""
    given = [Apply(stages.big_array), Overwrites(tmp_path, end, at=set()).with_(batch_size=batch_size)]
    local = executor(retry_on=ConnectionError)
    out = Pipeline("p", stages=given).run(local, initial_tasks=items(*range(5)))
    assert [np.unique(task.data).tolist() for task in out] == [[1], [2], [3], [4], [5]]
    assert len(local.last_report.failures) == 1


# ---- put aside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "levels"), [(die, 5), (fail, 4)])
@pytest.mark.parametrize("poison", [8, 11, 15])
def test_the_task_at_fault_is_found_and_put_aside(tmp_path: Path, end: Any, levels: int, poison: int):
    """A batch of 8 that kills is tried twice, then halved thrice, an attempt each; an exception is believed at once."""
    local = executor(on_task_failure="quarantine", max_attempts=2, capsule_dir=tmp_path / "capsules")
    stage = Fragile(tmp_path, end, at={poison}).with_(batch_size=8)
    expected = [(task_id, value) for task_id, value in undisturbed(24, batch_size=8) if value != 2 * poison]
    assert run(stage, 24, local) == expected
    report = local.last_report
    (aside,) = report.quarantined
    assert aside.task_id == f"0_{poison}"
    assert ("SIGKILL" if end is die else "refused") in aside.error
    assert len(report.failures) == levels
    assert [len(failure.task_ids) for failure in report.failures][-4:] == [8, 4, 2, 1]
    assert report.stages[0].tasks_in == 23
    kept = [failure.capsule for failure in report.failures if failure.capsule]
    assert kept == [report.failures[-1].capsule], "only of the task itself"
    assert len(list((tmp_path / "capsules").iterdir())) == 1


def test_a_result_that_cannot_travel_is_put_aside():
    local = executor(on_task_failure="quarantine")
    stage = Apply(lock_instead_of_three).with_(batch_size=4, num_workers=1)
    assert [value for _, value in run(stage, 8, local)] == [0, 1, 2, 4, 5, 6, 7]
    assert [aside.task_id for aside in local.last_report.quarantined] == ["0_3"]
    assert len(local.last_report.workers) == 1, "the process is not at fault"


def lock_instead_of_three(value: int) -> Any:
    return stages.return_lock(value) if value == 3 else value


def test_several_are_put_aside(tmp_path: Path):
    local = executor(on_task_failure="quarantine", max_attempts=1)
    poison = {3, 4, 17}
    out = run(Fragile(tmp_path, die, at=poison).with_(batch_size=4), 20, local)
    assert out == [(task_id, value) for task_id, value in undisturbed(20, 4) if value // 2 not in poison]
    assert sorted(aside.task_id for aside in local.last_report.quarantined) == ["0_17", "0_3", "0_4"]


def test_what_a_worker_did_before_it_died_counts_for_the_stage(tmp_path: Path):
    """Fast tasks are reported in bundles. Many poison ones among them must not look like a stage that never works."""
    local = executor(on_task_failure="quarantine", max_attempts=1)
    poison = set(range(2, 18, 3))
    out = run(Fragile(tmp_path, die, at=poison), 18, local)
    assert out == [(task_id, value) for task_id, value in undisturbed(18) if value // 2 not in poison]


def test_a_task_that_cannot_travel_ends_the_run_by_default():
    with pytest.raises(ResultNotPicklable):
        run(Apply(lock_instead_of_three).with_(num_workers=1), 8, executor())


# ---- given up ----------------------------------------------------------------------------------------------


class DiesInSetup(Apply):
    def setup(self, worker_metadata: Any = None) -> None:
        die()


def test_a_stage_that_cannot_set_up_ends_the_run_early():
    local = executor()
    with pytest.raises(WorkerDied, match="died during setup") as caught:
        run(DiesInSetup(abs).with_(num_workers=1), 100, local)
    (note,) = caught.value.__notes__
    assert note.startswith("stage 'apply' cannot be set up: 3 workers in a row failed")
    assert len(local.last_report.workers) == 3


def test_a_stage_that_kills_its_workers_ends_the_run_early(tmp_path: Path):
    """Also where tasks are quarantined: not all of them one by one."""
    local = executor(on_task_failure="quarantine", max_attempts=2)
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        run(Fragile(tmp_path, die, at=set(range(100))), 100, local)
    assert caught.value.__notes__[-1].startswith("stage 'fragile' cannot work: 5 workers in a row died, and none has")
    assert len(local.last_report.workers) == 5
    assert len(local.last_report.quarantined) == 2


# ---- kept --------------------------------------------------------------------------------------------------


def test_a_failed_batch_can_be_replayed(tmp_path: Path):
    local = executor(capsule_dir=tmp_path / "capsules")
    (tmp_path / "log").mkdir()
    with pytest.raises(ConnectionError):
        run(Fragile(tmp_path / "log", fail, at={2}).with_(batch_size=3), 5, local)
    (capsule,) = (tmp_path / "capsules").iterdir()
    assert local.last_report.failures[-1].capsule == str(capsule)
    done = subprocess.run(
        [sys.executable, "-m", "gpuexec", "replay", str(capsule)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "ConnectionError: refused" in done.stderr
    assert done.stderr.endswith("replay: the batch fails again\n")
    assert len((tmp_path / "log" / "item 2").read_text().split()) == 2


# ---- GPU memory --------------------------------------------------------------------------------------------


class Needs(ProcessingStage[Item, Item]):
    """Runs out of memory for more than ``limit`` tasks at once, having spoilt its inputs."""

    name = "needs"
    batch_size = 8

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def num_workers(self) -> int:
        return 1

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        outputs = []
        for task in tasks:
            task.data += 1
            outputs.append(Item(task.dataset_name, task.data))
        if len(tasks) > self.limit:
            raise OutOfMemoryError("CUDA out of memory")
        self._log_metric("calls", 1.0)
        return outputs

    def process(self, task: Item) -> Item:
        raise NotImplementedError


@pytest.mark.parametrize(("limit", "splits"), [(4, 2), (3, 6), (1, 14)])
def test_a_batch_too_large_for_the_gpu_is_halved(limit: int, splits: int):
    local = executor(split_on_oom=True)
    assert run(Needs(limit), 16, local) == run(Needs(8), 16, InlineExecutor())
    (report,) = local.last_report.stages
    assert report.metrics["gpuexec.oom_splits"] == splits
    assert (report.batches, report.tasks_in, report.tasks_out, report.items) == (2, 16, 16, 16)
    assert local.last_report.failures == []


def test_a_task_too_large_for_the_gpu_is_an_error():
    with pytest.raises(Exception, match="CUDA out of memory"):
        run(Needs(0), 16, executor(split_on_oom=True))
    with pytest.raises(Exception, match="CUDA out of memory"):
        run(Needs(4), 16, executor())


def test_figures_of_a_batch_that_failed_are_not_the_next_ones():
    local = executor(split_on_oom=True, on_task_failure="quarantine")
    stage = NeedsMoreForThree(4)
    assert [value for _, value in run(stage, 16, local)] == [1, 2, 3, *range(5, 17)]
    (report,) = local.last_report.stages
    assert (report.tasks_in, report.items) == (15, 15)


class NeedsMoreForThree(Needs):
    """Task 3 fits in no memory."""

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        if any(task.data == 3 for task in tasks):
            raise OutOfMemoryError("CUDA out of memory")
        return super().process_batch(tasks)
