"""Options of single stages: stated by the stage, by `with_`, by the executor, and on the command line."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gpuexec import Pipeline, TooManyQuarantined, WorkerDied
from gpuexec.config import ExecutorConfig
from gpuexec.core.retries import Action
from gpuexec.executors.stage_options import error_handling_of, limits_of, policy_of
from tests.process.running import run_command, run_local
from tests.process.stages import Apply, Range, die, fail, items
from tests.process.stages.retries import Fragile

PER_STAGE = [option for option in dataclasses.fields(ExecutorConfig) if option.metadata["per_stage"]]
OTHER_VALUES: dict[str, Any] = {
    "on_task_failure": "quarantine",
    "retry_on": (ValueError,),
    "retire_on": (ValueError,),
    "split_on_oom": True,
    "fusion": "off",
    "share_enforcement": "strict",
}


class Impatient(Fragile):
    executor_options = {"max_attempts": 2}  # noqa: RUF012


def fragile(folder: Path, end: Any, *, name: str = "fragile", times: int = 1000, kind: type[Fragile] = Fragile) -> Any:
    (folder / name).mkdir()
    return kind(folder / name, end, at={2}, times=times).with_(name=name)


def patient_pipeline(folder: str) -> Pipeline:
    """Return a pipeline of two stages whose workers die twice: for the command line."""
    first, second = (fragile(Path(folder), die, name=name, times=2) for name in ("first", "second"))
    second.at = {4}  # the first one doubles
    return Pipeline("patient", stages=[Range(3), first, second])


@pytest.mark.parametrize(
    ("stated", "options"),
    [
        (lambda stage: stage.with_(max_attempts=2), {}),
        (lambda stage: stage, {"stage_options": {"fragile": {"max_attempts": 2}}}),
        (lambda stage: stage.with_(max_attempts=9), {"stage_options": {"fragile": {"max_attempts": 2}}}),
        (lambda stage: stage.with_(max_attempts=2).with_(batch_size=1), {"max_attempts": 9}),
    ],
)
def test_the_attempts_of_one_stage(tmp_path: Path, stated: Any, options: dict[str, Any]):
    stages = [fragile(tmp_path, die, name="other", times=2), stated(fragile(tmp_path, die, times=2))]
    stages[1].at = {4}  # the other one doubles
    ran = run_local(stages, items(1, 2), raises=WorkerDied, **options)
    assert ran.error.stage == "fragile"
    assert [(f.stage_index, f.action) for f in ran.report.failures] == [
        (0, Action.RETRY),
        (0, Action.RETRY),
        (1, Action.RETRY),
        (1, Action.RAISE),
    ]


def test_a_stage_class_states_options(tmp_path: Path):
    stage = fragile(tmp_path, die, kind=Impatient)
    run_local([stage], items(2), raises=WorkerDied)
    assert len(stage.attempts(2)) == 2


def test_one_stage_quarantines_and_another_ends_the_run(tmp_path: Path):
    first = Apply(fail, name="first").with_(on_task_failure="quarantine", max_quarantined=None)
    ran = run_local([first, Apply(fail, name="second")], items(*range(30)))
    assert (ran.data, ran.report.stages[0].quarantined) == ([], 30)
    quarantines = fragile(tmp_path, fail).with_(on_task_failure="quarantine")
    ran = run_local([quarantines, Apply(fail, name="second")], items(2, 3), raises=ConnectionError)
    assert ran.report.stages[0].quarantined == 1


def test_one_stage_has_a_limit_of_quarantined_tasks():
    stage = Apply(fail, name="first").with_(on_task_failure="quarantine", max_quarantined=3)
    ran = run_local([stage], items(*range(30)), raises=TooManyQuarantined)
    assert "max_quarantined=3" in str(ran.error)


def test_one_stage_tries_again_after_an_exception(tmp_path: Path):
    stage = fragile(tmp_path, fail, times=1).with_(retry_on=ConnectionError, retry_delay_s=0.2)
    ran = run_local([stage, Apply(abs)], items(1, 2))
    assert ran.data == [2, 4]
    assert len(set(stage.attempts(2))) == 1, "the worker goes on"


def slow(value: int) -> int:
    time.sleep(0.6)
    return value


def hang(value: int) -> int:
    return value or time.sleep(60)  # type: ignore[return-value]


def test_one_stage_has_a_time_limit():
    stages = [Apply(slow, name="slow"), Apply(hang, name="hangs").with_(batch_timeout_s=0.3, max_attempts=1)]
    ran = run_local(stages, items(1, 0), raises=WorkerDied)
    assert ran.error.stage == "hangs"
    assert "batch_timeout_s = 0.3 s" in str(ran.error)


def own_pid(_: Any) -> int:
    return os.getpid()


def test_the_workers_of_one_stage_are_replaced():
    stages = [Apply(own_pid, name="replaced").with_(max_batches_per_worker=2, num_workers=1), Apply(abs)]
    ran = run_local(stages, items(*range(6)))
    assert len(set(ran.data)) == 3
    assert sum(worker.stage_index == 1 for worker in ran.report.workers) == 1


@pytest.mark.parametrize("option", PER_STAGE, ids=lambda option: option.name)
def test_every_option_that_a_stage_may_have_reaches_it(option: dataclasses.Field[Any]):
    config = ExecutorConfig.create()
    stage = Apply(abs).with_(**{option.name: OTHER_VALUES.get(option.name, 77)})
    changed = config.for_stage(stage.executor_options)
    parts = (
        policy_of,
        limits_of,
        error_handling_of,
        lambda options: (options.fusion, options.share_enforcement, options.max_concurrency),
    )
    assert [part(changed) for part in parts] != [part(config) for part in parts]


def test_the_command_line(tmp_path: Path):
    target = f"{__name__}:patient_pipeline"
    given = ("--set", f"folder={tmp_path}", "-o", "show_progress=false", "-o", "second.max_attempts=2")
    done = run_command("run", target, *given, "-o", f"capsule_dir={tmp_path}")
    assert done.returncode == 1
    assert "worker 'second-1' of stage 'second' died" in done.stderr


def test_plan_shows_them(tmp_path: Path):
    target = f"{__name__}:patient_pipeline"
    done = run_command("plan", target, "--set", f"folder={tmp_path}", "-o", "first.retry_on=OSError")
    assert "stage 'first', options of its own: retry_on=('OSError',)\n" in done.stdout
    assert "stage 'second'" not in done.stdout
