"""What takes too long: it tells where it was, it is killed, and the run goes on as far as it can."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from gpuexec import LocalExecutor, Pipeline, WorkerDied
from gpuexec.contract.phases import StagePhase
from gpuexec.core.retries import Action, DecisionReason
from gpuexec.core.worker import Timeout
from tests.process.stages import Apply, Journal, items


def wait_in_two_threads(value: Any) -> Any:
    thread = threading.Thread(target=wait_in_the_other_thread, daemon=True)
    thread.start()
    threading.Event().wait()


def wait_in_the_other_thread() -> None:
    threading.Event().wait()


def wait_in_c_with_the_gil(value: Any) -> None:
    """No Python code runs any more in this process, signal handlers included."""
    while True:
        ctypes.PyDLL(None).pause()


def be_stopped(value: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_once(path: str) -> str:
    """Wait for ever, but only the first who comes here."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return path
    threading.Event().wait()
    return path


def take_a_moment(value: int) -> int:
    return value + 0 * sum(range(50_000))


def run(function: Any, *values: Any, **options: Any) -> tuple[list[Any], LocalExecutor]:
    executor = LocalExecutor(show_progress=False, capsules=False, **options)
    stage = Apply(function).with_(num_workers=1)
    return Pipeline("p", stages=[stage]).run(executor, initial_tasks=items(*values)), executor


def last_report_of(function: Any, *values: Any, **options: Any) -> Any:
    executor = LocalExecutor(show_progress=False, capsules=False, max_attempts=1, **options)
    with pytest.raises(WorkerDied, match="was killed"):
        Pipeline("p", stages=[Apply(function).with_(num_workers=1)]).run(executor, initial_tasks=items(*values))
    return executor.last_report


def test_the_stacks_of_all_threads_are_logged_and_kept():
    logged: list[str] = []
    handler = logger.add(lambda message: logged.append(message.record["message"]))
    try:
        (failure,) = last_report_of(wait_in_two_threads, 1, batch_timeout_s=0.5).failures
    finally:
        logger.remove(handler)
    for function in ("wait_in_two_threads", "wait_in_the_other_thread"):
        assert f"in {function}" in failure.stacks
        assert any(line.startswith("apply-0 | ") and f"in {function}" in line for line in logged)
    assert failure.task_ids == ("0_0",)
    assert "batch_timeout_s" in failure.error


def test_no_python_code_is_needed_for_the_stacks_nor_for_the_end():
    (failure,) = last_report_of(wait_in_c_with_the_gil, 1, batch_timeout_s=0.5).failures
    assert "in wait_in_c_with_the_gil" in failure.stacks


def test_a_stopped_process_is_said_to_be_stopped():
    (failure,) = last_report_of(be_stopped, 1, batch_timeout_s=0.5).failures
    assert failure.stacks.startswith("no stacks: the process was stopped")


def test_a_hung_batch_is_done_by_another_worker(tmp_path: Path):
    values = [str(tmp_path / str(number)) for number in range(3)]
    Path(values[0]).touch()
    Path(values[2]).touch()
    out, executor = run(wait_once, *values, batch_timeout_s=0.5)
    assert [task.data for task in out] == values
    (failure,) = executor.last_report.failures
    assert failure.task_ids == ("0_1",)
    assert (failure.action, failure.reason) == (Action.RETRY, DecisionReason.ATTEMPTS_LEFT)
    assert len(executor.last_report.workers) == 2


class HangsInSetup(Journal):
    def maybe_fail(self, where: str) -> None:
        if where == self.fail_in:
            threading.Event().wait()


@pytest.mark.parametrize("phase", ["setup_on_node", "setup"])
def test_set_up_has_a_limit_of_its_own(tmp_path: Path, phase: str):
    executor = LocalExecutor(show_progress=False, capsules=False, max_attempts=1, setup_timeout_s=2.0)
    stage = HangsInSetup(tmp_path / "log", fail_in=phase)
    with pytest.raises(WorkerDied, match=f"died during {phase}: it took longer than setup_timeout_s = 2 s"):
        Pipeline("p", stages=[stage]).run(executor, initial_tasks=items(1))
    (failure,) = executor.last_report.failures
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

    (failure,) = last_report_of(function, 1, setup_timeout_s=2.0).failures
    assert "slow_to_import.py" in failure.stacks
    assert "setup_timeout_s" in failure.error


class HangsInTeardown(Apply):
    def teardown(self) -> None:
        threading.Event().wait()


def test_a_teardown_that_hangs_tells_where():
    executor = LocalExecutor(show_progress=False, stop_timeout_s=0.5)
    out = Pipeline("p", stages=[HangsInTeardown(abs)]).run(executor, initial_tasks=items(1, 2))
    assert [task.data for task in out] == [1, 2]
    (note,) = executor.last_report.notes
    assert "did not stop within stop_timeout_s = 0.5 s" in note
    assert "test_hangs.py" in note
    assert "in teardown" in note


def test_while_the_caller_is_busy_no_worker_is_late():
    """Nobody reads what workers report then: they seem to be at what they have long done."""
    executor = LocalExecutor(show_progress=False, batch_timeout_s=1.0)
    stage = Apply(take_a_moment).with_(num_workers=2)
    found = []
    for task in executor.execute_iter([stage], items(*range(300))):
        if len(found) == 150:
            select.select([], [], [], 1.5)  # the caller's own work
        found.append(task.data)
    assert sorted(found) == list(range(300))
    assert executor.last_report.failures == []
    assert len(executor.last_report.workers) == 2


def test_a_hang_names_the_option():
    assert "batch_timeout_s" in str(Timeout(StagePhase.PROCESS, 1.0))
    assert "setup_timeout_s" in str(Timeout(StagePhase.START_UP, 1.0))
