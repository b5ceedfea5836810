"""Failures mean the same on a cluster as on one node: exceptions, attempts, quarantine, limits, cancellation."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from gpuexec import RunCancelled, TooManyQuarantined, WorkerDied
from gpuexec.errors import RemoteTraceback, ResourcesError
from tests.process.running import run_local
from tests.process.stages import (
    Apply,
    Journal,
    call_exit,
    die,
    fail,
    hang,
    invert,
    items,
    kill_self_at_two,
    raise_choosy,
    return_lock,
    same,
)
from tests.process.stages.retries import Fragile, Needs
from tests.process.stages.transforms import CannotImport, ReturnsText
from tests.ray.running import ray_executor, run_ray

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(Apply(invert), id="raises"),
        pytest.param(Apply(raise_choosy), id="cannot be unpickled"),
        pytest.param(Apply(call_exit), id="exits"),
        pytest.param(Apply(return_lock), id="cannot be pickled"),
        pytest.param(ReturnsText(), id="contract"),
        pytest.param(CannotImport(), id="import"),
        pytest.param(Journal(Path("/dev/null"), fail_in="setup"), id="setup"),
        pytest.param(Journal(Path("/dev/null"), fail_in="setup_on_node"), id="setup_on_node"),
    ],
)
def test_an_error_is_the_same_as_on_one_node(stage):
    here = run_local([stage], items(0), raises=Exception)
    there = run_ray([stage], items(0), raises=Exception)
    assert type(there.error) is type(here.error)
    assert str(there.error) == str(here.error)
    assert isinstance(there.error.__cause__, RemoteTraceback)
    assert there.error.__notes__[0].partition(" (worker")[0] == here.error.__notes__[0].partition(" (worker")[0]
    assert there.error.__notes__[0].partition("),")[2] == here.error.__notes__[0].partition("),")[2], "task ids"


def test_a_task_that_kills_its_workers_ends_the_run_after_its_attempts():
    ran = run_ray([Apply(kill_self_at_two)], items(*range(4)), tasks_per_block=1, raises=WorkerDied, max_attempts=2)
    assert ran.error.stage == "apply"
    assert ran.error.task_ids == ("0_2",)
    assert [failure.action for failure in ran.report.failures] == ["retry", "raise"]


@pytest.mark.parametrize("per_block", [1, 8], ids=["a batch at a time", "with others"])
def test_a_task_that_kills_its_workers_is_quarantined_alone(per_block: int):
    stage = Apply(kill_self_at_two).with_(batch_size=4)
    ran = run_ray(
        [stage],
        items(*range(8)),
        tasks_per_block=per_block,
        on_task_failure="quarantine",
        max_attempts=2,
    )
    assert ran.data == [0, 1, 3, 4, 5, 6, 7]
    assert [task.task_id for task in ran.report.quarantined] == ["0_2"]


def test_an_actor_that_dies_is_replaced_and_its_batch_run_again(tmp_path: Path):
    class FragileWithSetUp(Fragile):
        def setup(self, worker_metadata=None):
            pass

    stage = FragileWithSetUp(tmp_path, die, at={3}, times=1)
    ran = run_ray([stage], items(*range(6)), tasks_per_block=1)
    assert ran.data == [0, 2, 4, 6, 8, 10]
    assert len(set(stage.attempts(3))) == 2
    workers = [worker.worker_id for worker in ran.report.workers]
    assert len(workers) == len(set(workers)) == 2, "a replacement has an id of its own"


def test_retry_on_and_quarantine(tmp_path: Path):
    def end():
        raise ConnectionError("refused")

    stage = Fragile(tmp_path, end, at={1}, times=2)
    ran = run_ray([stage], items(0, 1), retry_on=(ConnectionError,))
    assert ran.data == [0, 2]
    assert [failure.action for failure in ran.report.failures] == ["retry", "retry"]
    assert ran.report.failures[0].task_ids == ("0_1",)
    failing = Fragile(tmp_path / "other", end, at={1})
    failing.folder.mkdir()
    ran = run_ray([failing.with_(batch_size=2)], items(0, 1, 2), on_task_failure="quarantine")
    assert ran.data == [0, 4]
    assert ran.report.quarantined[0].task_id == "0_1"


def test_retire_on_takes_another_process(tmp_path: Path):
    def end():
        raise LookupError("lost")

    stage = Fragile(tmp_path, end, at={1}, times=1)
    ran = run_ray([stage], items(0, 1, 2), retire_on=(LookupError,), tasks_per_block=1)
    assert ran.data == [0, 2, 4]
    assert len(set(stage.attempts(1))) == 2


def test_too_many_quarantined_tasks_end_the_run():
    ran = run_ray(
        [Apply(fail)], items(*range(10)), raises=TooManyQuarantined, on_task_failure="quarantine", max_quarantined=3
    )
    assert "stage 'apply': 4 tasks are in quarantine" in str(ran.error)
    assert isinstance(ran.error.__cause__, ConnectionError)


def test_a_batch_that_hangs_is_ended_after_its_limit():
    ran = run_ray(
        [Apply(lambda value: hang() if value == 1 else value)],
        items(0, 1, 2),
        tasks_per_block=1,
        batch_timeout_s=1.0,
        max_attempts=1,
        on_task_failure="quarantine",
    )
    assert ran.data == [0, 2]
    assert "took longer than batch_timeout_s=1" in ran.report.failures[0].error
    assert "in hang" in ran.report.failures[0].error, "the stack says where"


def test_a_setup_that_never_succeeds_ends_the_run():
    class DiesInSetup(Apply):
        def setup(self, worker_metadata=None):
            die()

    ran = run_ray([DiesInSetup(same)], items(0), raises=WorkerDied, max_attempts=2)
    assert ran.error.phase == "setup"


def test_split_on_oom():
    ran = run_ray([Needs(3)], items(*range(8)), split_on_oom=True)
    assert ran.data == list(range(1, 9))
    assert ran.report.stages[0].metrics["gpuexec.oom_splits"] >= 1
    whole = run_ray([Needs(3)], items(*range(8)), raises=RuntimeError)
    assert type(whole.error).__name__ == "OutOfMemoryError", "only if the options say so"


def test_cancel_ends_a_run_whose_stage_does_not_return():
    executor = ray_executor()
    timer = threading.Timer(4.0, executor.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(RunCancelled):
        executor.execute([Apply(hang)], items(0))
    assert time.monotonic() - began < 60
    timer.join()
    assert run_ray([Apply(same)], items(1)).data == [1], "the cluster is as it was"


def test_what_never_fits_is_refused_before_anything_starts():
    stage = Apply(same)
    stage.resources.gpus = 4
    with pytest.raises(ResourcesError, match="asks for gpus=4, but the largest node has 2"):
        ray_executor().execute([stage], items(0))
