"""What takes too long: its stacks are reported, it is killed, and the run goes on as far as it can."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import pytest

from gpuexec import WorkerDied
from gpuexec.contract.phases import StagePhase
from gpuexec.core import termination
from gpuexec.core.retries import Action, DecisionReason
from gpuexec.core.worker import Timeout
from gpuexec.report.model import FailedAttempt
from tests.process.running import limit_only, local_executor, logged, run_local
from tests.process.stages import Apply, be_stopped, items
from tests.process.stages.hanging import (
    HangsAtExit,
    HangsInSetup,
    HangsInTeardown,
    LeavesAThread,
    take_a_moment,
    wait_in_c_with_the_gil,
    wait_in_two_threads,
    wait_once,
)


@pytest.fixture(autouse=True)
def stacks_have_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded machine, a process may take longer than half a second to print its stacks."""
    monkeypatch.setattr(termination, "STACKS_S", 2.0)


def only_failure(function: Any, **options: Any) -> FailedAttempt:
    """Return the one failure of a run that a worker's death ends."""
    stage = Apply(function).with_(num_workers=1)
    ran = run_local([stage], items(1), raises=WorkerDied, max_attempts=1, **options)
    (failure,) = ran.report.failures
    return failure


def test_the_stacks_of_all_threads_are_logged_and_kept():
    with logged() as messages:
        failure = only_failure(wait_in_two_threads, batch_timeout_s=0.5)
    for function in ("wait_in_two_threads", "wait_in_the_other_thread"):
        assert f"in {function}" in failure.stacks
        assert any(line.startswith("apply-0 | ") and f"in {function}" in line for line in messages)
    assert failure.task_ids == ("0_0",)
    assert "batch_timeout_s" in failure.error


def test_neither_the_stacks_nor_the_end_need_python_code_to_run():
    failure = only_failure(wait_in_c_with_the_gil, batch_timeout_s=0.5)
    assert "in wait_in_c_with_the_gil" in failure.stacks


def test_of_a_stopped_process_the_report_says_that_it_was_stopped():
    failure = only_failure(be_stopped, batch_timeout_s=0.5)
    assert failure.stacks.startswith("no stacks: the process was stopped")


def test_a_hung_batch_is_processed_by_another_worker(tmp_path: Path):
    values = [str(tmp_path / str(number)) for number in range(3)]
    Path(values[0]).touch()
    Path(values[2]).touch()
    ran = run_local([Apply(wait_once).with_(num_workers=1)], items(*values), batch_timeout_s=2.0)
    assert ran.data == values
    (failure,) = ran.report.failures
    assert failure.task_ids == ("0_1",)
    assert (failure.action, failure.reason) == (Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
    assert len(ran.report.workers) == 2


@pytest.mark.parametrize("phase", [StagePhase.SETUP_ON_NODE, StagePhase.SETUP])
def test_setup_has_a_time_limit_of_its_own(tmp_path: Path, phase: StagePhase, monkeypatch: pytest.MonkeyPatch):
    limit_only(monkeypatch, phase)
    stage = HangsInSetup(tmp_path / "log", fail_in=phase)
    ran = run_local([stage], items(1), raises=WorkerDied, max_attempts=1, setup_timeout_s=1.0)
    assert ran.error.phase == phase
    assert "setup_timeout_s = 1 s" in ran.error.cause
    (failure,) = ran.report.failures
    assert "in maybe_fail" in failure.stacks


def test_a_module_that_hangs_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DRIVER_PID", str(os.getpid()))
    (tmp_path / "slow_to_import.py").write_text(
        "import os, threading\n"
        "def wait(): threading.Event().wait()\n"
        "if os.environ['DRIVER_PID'] != str(os.getpid()): wait()\n"
        "def function(value): return value\n"
    )
    from slow_to_import import function

    failure = only_failure(function, setup_timeout_s=4.0)  # a loaded machine takes a second to come that far
    assert "slow_to_import.py" in failure.stacks
    assert "setup_timeout_s" in failure.error


def test_a_teardown_that_hangs_is_noted_with_its_stacks():
    ran = run_local([HangsInTeardown(abs)], items(1, 2), stop_timeout_s=0.5)
    assert ran.data == [1, 2]
    (note,) = [note for note in ran.report.notes if "stop_timeout_s = 0.5 s" in note]
    assert "hanging.py" in note
    assert "in teardown" in note


@pytest.mark.parametrize("stage", [LeavesAThread, HangsAtExit])
def test_a_process_that_does_not_exit_is_noted_with_its_stacks(stage: type[Apply]):
    ran = run_local([stage(abs)], items(1, 2), stop_timeout_s=0.5)
    assert ran.data == [1, 2]
    words = "it was done, but did not exit within stop_timeout_s = 0.5 s"
    (note,) = [note for note in ran.report.notes if words in note]
    assert "threading.py" in note


def test_while_the_caller_is_busy_no_worker_is_late():
    """Nobody reads the workers' reports meanwhile, so they seem to be at batches that they have long finished."""
    executor = local_executor(batch_timeout_s=3.0)
    stage = Apply(take_a_moment).with_(num_workers=2)
    values = []
    for task in executor.execute_iter([stage], items(*range(300))):
        if len(values) == 150:
            select.select([], [], [], 4.0)  # the caller's own work, which has to exceed the limit
        values.append(task.data)
    assert sorted(values) == list(range(300))
    assert executor.last_report.failures == []
    assert len(executor.last_report.workers) == 2


def test_a_hang_names_the_option():
    assert "batch_timeout_s" in str(Timeout(StagePhase.PROCESS, 1.0))
    assert "setup_timeout_s" in str(Timeout(StagePhase.START_UP, 1.0))
