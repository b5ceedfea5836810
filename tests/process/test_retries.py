"""Batches that fail: what is tried again, where and how often, and what is quarantined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuexec import ProcessingStage, ResultNotPicklable, TooManyQuarantined, WorkerDied
from gpuexec.contract.phases import StagePhase
from gpuexec.core.retries import Action, DecisionReason
from tests.process.running import ids_and_data, run_command, run_inline, run_local
from tests.process.stages import Apply, big_array, die, double, fail, items
from tests.process.stages.retries import (
    DiesInSetup,
    FailsOnNode,
    Fragile,
    Needs,
    NeedsMoreForThree,
    Overwrites,
    RaisesItsOwn,
    lock_instead_of_three,
)


def undisturbed(count: int, batch_size: int = 1) -> list[tuple[str, Any]]:
    return ids_and_data(run_inline([Apply(double).with_(batch_size=batch_size)], items(*range(count))))


# ---- again -------------------------------------------------------------------------------------------------


def test_a_batch_whose_worker_dies_is_processed_by_another(tmp_path: Path):
    stage = Fragile(tmp_path, die, at={2}, times=2)
    ran = run_local([stage], items(*range(5)), capsule_dir=tmp_path / "capsules")
    assert ids_and_data(ran.tasks) == undisturbed(5)
    assert len(set(stage.attempts(2))) == 3, "a process each"
    report = ran.report
    assert [f.task_ids for f in report.failures] == [("0_2",)] * 2
    assert [f.action for f in report.failures] == [Action.RETRY] * 2
    assert len(report.workers) == 3
    assert report.stages[0].failed_attempts == 2
    assert report.stages[0].tasks_in == 5
    assert not (tmp_path / "capsules").exists(), "capsules are for what stays undone"


def test_attempts_are_limited_and_counted_in_the_error(tmp_path: Path):
    stage = Fragile(tmp_path, die, at={2})
    ran = run_local([stage], items(*range(5)), raises=WorkerDied, max_attempts=2, capsule_dir=tmp_path / "capsules")
    assert ran.error.task_ids[0] == "0_2"
    (capsule,) = (tmp_path / "capsules").iterdir()
    note, replay = ran.error.__notes__
    assert replay == f"to run it again: gpuexec replay {capsule}"
    assert "attempt 2" in note
    assert "SIGKILL" in note
    assert "fragile-0" in note, "the worker of the first attempt"
    assert [(f.action, f.reason) for f in ran.report.failures] == [
        (Action.RETRY, DecisionReason.ATTEMPTS_LEFT),
        (Action.RAISE, DecisionReason.ATTEMPTS_SPENT),
    ]


def test_the_dead_workers_other_batches_are_not_blamed(tmp_path: Path):
    """Each of three neighbours kills a worker that had the following ones in flight too."""
    ran = run_local([Fragile(tmp_path, die, at={20, 21, 22}, times=1)], items(*range(60)), max_attempts=2)
    assert ids_and_data(ran.tasks) == undisturbed(60)
    assert [f.task_ids for f in ran.report.failures] == [("0_20",), ("0_21",), ("0_22",)]


def test_exceptions_are_retried_if_asked(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1, 3}, times=2)
    ran = run_local([stage], items(*range(5)), retry_on=ConnectionError)
    assert ids_and_data(ran.tasks) == undisturbed(5)
    assert len(set(stage.attempts(1))) == 1, "the process is not at fault"
    assert len(ran.report.failures) == 4
    assert len(ran.report.workers) == 1


def test_exceptions_are_retried_in_another_process_if_asked(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1}, times=2)
    ran = run_local([stage], items(*range(5)), retire_on="ConnectionError")
    assert ids_and_data(ran.tasks) == undisturbed(5)
    assert len(set(stage.attempts(1))) == 3
    assert all(worker.exit_code == 0 for worker in ran.report.workers), "they were told to stop"


def test_an_exception_that_persists_is_raised_with_its_attempts(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1})
    ran = run_local([stage], items(*range(5)), raises=ConnectionError, retry_on=OSError)
    assert any("attempt 3" in note for note in ran.error.__notes__)
    assert len(stage.attempts(1)) == 3


def test_other_exceptions_are_not_retried(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={1})
    run_local([stage], items(*range(5)), raises=ConnectionError, retry_on=TimeoutError)
    assert len(stage.attempts(1)) == 1


@pytest.mark.parametrize("end", [die, fail])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_is_processed_again_as_it_was_sent(tmp_path: Path, end: Callable[[], None], batch_size: int):
    """Large arrays travel in shared memory: what the first attempt did to them must not be seen by the second."""
    stages = [Apply(big_array), Overwrites(tmp_path, end, at=set()).with_(batch_size=batch_size)]
    ran = run_local(stages, items(*range(5)), retry_on=ConnectionError)
    assert [np.unique(array).tolist() for array in ran.data] == [[1], [2], [3], [4], [5]]
    assert len(ran.report.failures) == 1


@pytest.mark.parametrize("dies", [True, False])
def test_setup_on_node_is_tried_again_before_any_worker_sets_up(tmp_path: Path, dies: bool):
    ran = run_local([FailsOnNode(tmp_path, 1, dies=dies)], items(1), retry_on=ConnectionError)
    assert ran.data == [2]


# ---- quarantined -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "failures"), [(die, 5), (fail, 4)])
@pytest.mark.parametrize("poison", [8, 11, 15])
def test_the_task_at_fault_is_found_and_quarantined(
    tmp_path: Path, end: Callable[[], None], failures: int, poison: int
):
    """A batch of 8 that kills is tried twice, then halved three times; one that raises is halved at once."""
    stage = Fragile(tmp_path, end, at={poison}).with_(batch_size=8)
    ran = run_local(
        [stage],
        items(*range(24)),
        on_task_failure="quarantine",
        max_attempts=2,
        capsule_dir=tmp_path / "capsules",
    )
    expected = [(task_id, value) for task_id, value in undisturbed(24, batch_size=8) if value != 2 * poison]
    assert ids_and_data(ran.tasks) == expected
    report = ran.report
    (quarantined,) = report.quarantined
    assert quarantined.task_id == f"0_{poison}"
    assert ("SIGKILL" if end is die else "refused") in quarantined.error
    assert len(report.failures) == failures
    assert [len(failure.task_ids) for failure in report.failures][-4:] == [8, 4, 2, 1]
    assert report.stages[0].tasks_in == 23
    kept = [failure.capsule for failure in report.failures if failure.capsule]
    assert kept == [report.failures[-1].capsule], "only of the task itself"
    assert len(list((tmp_path / "capsules").iterdir())) == 1


def test_a_result_that_cannot_be_pickled_is_quarantined():
    stage = Apply(lock_instead_of_three).with_(batch_size=4, num_workers=1)
    ran = run_local([stage], items(*range(8)), on_task_failure="quarantine")
    assert ran.data == [0, 1, 2, 4, 5, 6, 7]
    assert [quarantined.task_id for quarantined in ran.report.quarantined] == ["0_3"]
    assert len(ran.report.workers) == 1, "the process is not at fault"


def test_an_exception_that_the_driver_cannot_import_is_quarantined_like_any_other(tmp_path: Path):
    ran = run_local([RaisesItsOwn(tmp_path)], items(0, 1, 2), on_task_failure="quarantine")
    assert ran.data == [0, 2]
    (quarantined,) = ran.report.quarantined
    assert quarantined.task_id == "0_1"
    assert "bad task" in quarantined.error


def test_several_tasks_are_quarantined(tmp_path: Path):
    poison = {3, 4, 17}
    stage = Fragile(tmp_path, die, at=poison).with_(batch_size=4)
    ran = run_local([stage], items(*range(20)), on_task_failure="quarantine", max_attempts=1)
    expected = [(task_id, value) for task_id, value in undisturbed(20, 4) if value // 2 not in poison]
    assert ids_and_data(ran.tasks) == expected
    assert sorted(quarantined.task_id for quarantined in ran.report.quarantined) == ["0_17", "0_3", "0_4"]


def test_what_a_worker_did_before_it_died_counts_for_the_stage(tmp_path: Path):
    """Fast tasks are reported together. Many poison ones among them must not look like a stage that never works."""
    poison = set(range(2, 18, 3))
    ran = run_local(
        [Fragile(tmp_path, die, at=poison)], items(*range(18)), on_task_failure="quarantine", max_attempts=1
    )
    assert ids_and_data(ran.tasks) == [(i, value) for i, value in undisturbed(18) if value // 2 not in poison]


def test_a_result_that_cannot_be_pickled_ends_the_run_by_default():
    run_local([Apply(lock_instead_of_three).with_(num_workers=1)], items(*range(8)), raises=ResultNotPicklable)


# ---- given up ----------------------------------------------------------------------------------------------


def test_a_stage_that_cannot_set_up_ends_the_run_early():
    ran = run_local([DiesInSetup(abs).with_(num_workers=1)], items(*range(100)), raises=WorkerDied)
    assert ran.error.phase == StagePhase.SETUP
    (note,) = ran.error.__notes__
    assert note.startswith("stage 'apply' cannot be set up: 3 workers in a row failed")
    assert len(ran.report.workers) == 3


def test_a_setup_on_node_that_never_succeeds_ends_the_run(tmp_path: Path):
    stage = FailsOnNode(tmp_path, 1000, dies=False)
    run_local([stage], items(1), raises=ConnectionError, retry_on=ConnectionError)
    assert len(list(tmp_path.iterdir())) > 1, "it was tried again"


def test_a_stage_that_kills_its_workers_ends_the_run_early(tmp_path: Path):
    """Also where tasks are quarantined: not all of them one by one."""
    stage = Fragile(tmp_path, die, at=set(range(100)))
    ran = run_local([stage], items(*range(100)), raises=WorkerDied, on_task_failure="quarantine", max_attempts=2)
    assert "SIGKILL" in ran.error.cause
    assert ran.error.__notes__[-1].startswith("stage 'fragile' cannot work: 5 workers in a row died, and none has")
    assert len(ran.report.workers) == 5
    assert len(ran.report.quarantined) == 2


# ---- kept --------------------------------------------------------------------------------------------------


def test_a_failed_batch_can_be_replayed(tmp_path: Path):
    (tmp_path / "log").mkdir()
    stage = Fragile(tmp_path / "log", fail, at={2}).with_(batch_size=3)
    ran = run_local([stage], items(*range(5)), raises=ConnectionError, capsule_dir=tmp_path / "capsules")
    (capsule,) = (tmp_path / "capsules").iterdir()
    assert ran.report.failures[-1].capsule == str(capsule)
    replayed = run_command("replay", capsule)
    assert replayed.returncode == 1
    assert "ConnectionError: refused" in replayed.stderr
    assert replayed.stderr.endswith("replay: the batch fails again\n")
    assert len((tmp_path / "log" / "item 2").read_text().split()) == 2


# ---- GPU memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "splits"), [(4, 2), (3, 6), (1, 14)])
def test_a_batch_too_large_for_the_gpu_is_halved(limit: int, splits: int):
    ran = run_local([Needs(limit)], items(*range(16)), split_on_oom=True)
    assert ids_and_data(ran.tasks) == ids_and_data(run_inline([Needs(8)], items(*range(16))))
    (report,) = ran.report.stages
    assert report.metrics["gpuexec.oom_splits"] == splits
    assert (report.batches, report.tasks_in, report.tasks_out, report.items) == (2, 16, 16, 16)
    assert ran.report.failures == []


@pytest.mark.parametrize(("stage", "split_on_oom"), [(Needs(0), True), (Needs(4), False)])
def test_a_batch_that_cannot_be_halved_or_may_not_is_an_error(stage: ProcessingStage, split_on_oom: bool):
    ran = run_local([stage], items(*range(16)), raises=Exception, split_on_oom=split_on_oom)
    assert "CUDA out of memory" in str(ran.error)


def test_the_stats_of_a_batch_that_failed_are_not_added_to_the_next():
    ran = run_local([NeedsMoreForThree(4)], items(*range(16)), split_on_oom=True, on_task_failure="quarantine")
    assert ran.data == [1, 2, 3, *range(5, 17)]
    (report,) = ran.report.stages
    assert (report.tasks_in, report.items) == (15, 15)


# ---- delayed, and too many -----------------------------------------------------------------------------------


def test_a_retry_waits_while_other_batches_go_on(tmp_path: Path):
    stage = Fragile(tmp_path, fail, at={0}, times=2)
    ran = run_local([stage], items(*range(5)), retry_on=ConnectionError, retry_delay_s=0.5)
    assert ids_and_data(ran.tasks) == undisturbed(5)
    assert len(stage.attempts(0)) == 3
    assert ran.report.wall_s > 1.5, "0.5 s and 1 s"
    times = [(tmp_path / f"item {value}").stat().st_mtime for value in range(5)]
    assert max(times[1:]) < times[0] - 0.9


def test_a_run_in_which_everything_fails_ends_with_the_first_traceback():
    ran = run_local([Apply(fail)], items(*range(500)), raises=TooManyQuarantined, on_task_failure="quarantine")
    assert ran.report.stages[0].quarantined == len(ran.report.quarantined) == 20
    assert isinstance(ran.error.__cause__, ConnectionError)
    assert "in fail" in str(ran.error.__cause__.__cause__), "the worker's traceback"
