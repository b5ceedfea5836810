"""Every way a run can end other than well: which error it raises, and that nothing is left behind."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuexec import ResultNotPicklable, StageContractError, StageNotPicklable, WorkerDied
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import RemoteStageError, RemoteTraceback
from gpuexec.stage.node_lock import node_lock
from tests.process import stages
from tests.process.running import ROOT, logged, run_local, run_python
from tests.process.stages import Apply, Journal, hang, items, segfault
from tests.process.stages.endings import (
    Ends,
    EndsInTeardown,
    raise_much,
    raise_stop_iteration,
    raise_what_exits_when_pickled,
)
from tests.process.stages.transforms import CannotImport, ReturnsText
from tests.process.waiting import ENDS_WITHIN_S, wait_until


def test_a_stages_exception_keeps_its_type_and_says_where(tmp_path: Path):
    ran = run_local([Apply(abs, "first"), Journal(tmp_path / "log", fail_on=2)], items(1, 2, 3), raises=LookupError)
    assert str(ran.error) == "no 2"
    (note,) = ran.error.__notes__
    assert "stage 'journal'" in note
    assert "worker 'journal-0'" in note
    assert "0_1_0" in note
    cause = ran.error.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert cause.task_ids == ("0_1_0",)
    assert "tests/process/stages/__init__.py" in cause.text
    assert "gpuexec/worker/loop.py" not in cause.text.replace("\\", "/").splitlines()[1]


@pytest.mark.parametrize("phase", ["setup_on_node", "setup"])
def test_life_cycle_methods_that_raise(tmp_path: Path, phase: str):
    ran = run_local([Journal(tmp_path / "log", fail_in=phase)], items(1), raises=LookupError)
    assert str(ran.error) == f"in {phase}"
    assert f"in {phase}() of stage 'journal'" in ran.error.__notes__[0]


def test_an_exception_that_cannot_be_pickled_arrives_as_text():
    ran = run_local([Apply(stages.raise_choosy)], items(1), raises=RemoteStageError)
    assert "Choosy" in str(ran.error)
    assert "5: because" in str(ran.error)


def test_an_exception_without_a_text():
    ran = run_local([Apply(stages.raise_mute)], items(1), raises=stages.Mute)
    assert "stage 'apply'" in ran.error.__notes__[0]


@pytest.mark.parametrize("phase", ["setup", "process"])
def test_stop_iteration_is_the_stages_error(tmp_path: Path, phase: str):
    """Python lets no generator raise it, and results come from one."""
    ran = run_local([Ends(phase, raise_stop_iteration, tmp_path)], items(1), raises=RemoteStageError)
    assert f"stage 'ends' raised StopIteration in {phase}" in str(ran.error)
    assert isinstance(ran.error.__cause__, RemoteTraceback)


def test_of_a_very_long_exception_the_log_shows_begin_and_end(tmp_path: Path):
    with logged() as messages:
        stage = Ends("process", raise_much, tmp_path)
        ran = run_local([stage], items(1), raises=LookupError, retry_on=LookupError, max_attempts=2)
    assert len(str(ran.error)) > 30_000_000, "the exception itself is as it was"
    assert max(map(len, messages)) < 10_000
    assert any("LookupError: beginxxx" in message and "xxxend" in message for message in messages)
    assert len(ran.report.error) < 10_000
    assert len(ran.error.__cause__.text) < 100_000


def test_an_exception_that_exits_when_it_is_pickled(tmp_path: Path):
    ran = run_local([Ends("process", raise_what_exits_when_pickled, tmp_path)], items(1), raises=RemoteStageError)
    assert "ExitsWhenPickled: as planned" in str(ran.error)


def test_sys_exit_in_a_stage_does_not_end_the_driver():
    ran = run_local([Apply(stages.call_exit)], items(1), raises=RemoteStageError)
    assert "tried to end its process" in str(ran.error)


@pytest.mark.parametrize(
    ("function", "code", "words", "last_line"),
    [
        (stages.kill_self, -signal.SIGKILL, "SIGKILL", "about to die"),
        (stages.segfault, -signal.SIGSEGV, "SIGSEGV", "Segmentation fault"),  # faulthandler's dump
        (stages.leave, 7, "code 7", ""),
        (stages.terminate_self, 143, "another process sent it SIGTERM", ""),
    ],
)
def test_a_dead_worker_is_reported_with_its_cause(
    function: Callable[[Any], Any], code: int, words: str, last_line: str
):
    died = run_local([Apply(function)], items(1, 2, 3), raises=WorkerDied).error
    assert (died.stage, died.exit_code, died.phase) == ("apply", code, StagePhase.PROCESS)
    assert words in died.cause
    assert died.worker_id.startswith("apply-")
    assert "0_0" in died.task_ids
    assert not last_line or any(last_line in line for line in died.last_lines)


def test_the_error_tells_how_much_memory_a_killed_worker_used():
    stage = Apply(stages.kill_self_at_two).with_(num_workers=1)
    ran = run_local([stage], items(1, 2, 3), raises=WorkerDied, max_attempts=1)
    assert "its memory peaked at" in ran.error.cause


def test_a_result_that_cannot_be_pickled():
    ran = run_local([Apply(stages.return_lock)], items(1), raises=ResultNotPicklable)
    assert "stage 'apply'" in str(ran.error)
    assert "lock" in str(ran.error)


@pytest.mark.parametrize("stages_after", [[], [Apply(id, "second")]])
def test_a_result_that_can_be_pickled_but_not_unpickled(stages_after: list[Apply]):
    """Whoever is the first to unpickle it, the driver or the next stage, the error names the stage that made it."""
    given = [Apply(stages.return_pickles_only, "first"), *stages_after]
    ran = run_local(given, items(1), fusion="off", raises=ResultNotPicklable)
    assert "stage 'first'" in str(ran.error)
    assert "cannot be unpickled" in str(ran.error)


def test_a_stage_that_cannot_be_pickled_is_refused_before_anything_starts():
    stage = Apply(abs)
    stage.handle = threading.Lock()
    with pytest.raises(StageNotPicklable, match=r"stage 'apply'.*attribute handle.*setup\(\)"):
        run_local([stage], items(1))


def test_an_initial_task_that_cannot_be_pickled():
    with pytest.raises(StageNotPicklable, match="initial task 0"):
        run_local([Apply(abs)], items(open_generator()))


def open_generator() -> Iterator[int]:
    return (i for i in range(3))


def test_a_stage_that_returns_the_wrong_type():
    with pytest.raises(StageContractError, match="stage 'text' returned a str"):
        run_local([ReturnsText()], items(1))


def test_a_stage_whose_module_the_worker_lacks():
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        run_local([CannotImport()], items(1))


DRIVER = """
import sys
from gpuexec import LocalExecutor, Pipeline
from gpuexec.driver import shutdown
from tests.process import stages
function = getattr(stages, sys.argv[1])
if sys.argv[1] == "note_and_ignore_termination":
    shutdown._TEARDOWN_S = 600.0
try:
    executor = LocalExecutor(show_progress=False, stop_timeout_s=60)
    Pipeline("p", stages=[stages.Apply(function)]).run(executor, initial_tasks=stages.items(*sys.argv[2:]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
"""


@pytest.fixture
def driver() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a driver in a session of its own; whatever is left of it is killed."""
    started = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *args],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def text_of(path: Path, driver: subprocess.Popen[str]) -> str:
    """Wait until the file has content."""
    wait_until(lambda: path.exists() and path.read_text(), running=driver)
    return path.read_text()


def wait_until_gone(pids: list[int]) -> None:
    """Return once no process with one of these pids runs. A zombie that nobody reaps has ended too."""

    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_until(lambda: not any(map(runs, pids)))


# A run ends within 5 s of Ctrl-C, and at once at the second.


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_nor_its_child_outlives_a_killed_driver(driver, tmp_path: Path, how: signal.Signals):
    path = tmp_path / "pids"
    process = driver("start_child_and_wait", str(path))
    pids = [int(word) for word in text_of(path, process).split()]
    pids += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(how)
    assert process.wait(ENDS_WITHIN_S) == (-how if how is signal.SIGKILL else 143), (
        "SIGTERM is heeded, and reported as shells do"
    )
    wait_until_gone(pids)


def test_ctrl_c_ends_a_run_that_is_stuck_in_a_stage(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("announce_and_wait", str(path))
    worker = int(text_of(path, process))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, out) == (130, "interrupted\n")
    assert not psutil.pid_exists(worker)


def test_a_worker_that_ignores_ctrl_c_is_killed(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("ignore_everything", str(path))
    worker = int(text_of(path, process))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 130
    assert not psutil.pid_exists(worker)


def test_a_second_ctrl_c_ends_a_run_at_once(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("note_and_ignore_termination", str(path))
    worker = int(text_of(path, process))
    process.send_signal(signal.SIGINT)
    text_of(tmp_path / "pids.told", process)  # the first has reached the worker, which ignores it
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=ENDS_WITHIN_S)  # after the first, a worker gets ten minutes
    assert process.returncode == 130
    assert not psutil.pid_exists(worker)


def test_a_signal_that_arrives_inside_a_finalizer_still_ends_the_worker(driver, tmp_path: Path):
    """Python drops what a finalizer raises; the worker must notice afterwards."""
    path = tmp_path / "pids"
    process = driver("wait_in_a_finalizer", str(path))
    worker = int(text_of(path, process))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 130
    assert (tmp_path / "pids.after").exists(), "the stage's code went on after the finalizer"
    assert not psutil.pid_exists(worker)


def test_a_stage_may_start_processes_of_its_own():
    assert run_local([Apply(stages.sum_in_a_pool)], items(4)).data == [0 + 1 + 4 + 9]


def test_a_forked_child_that_leaves_the_stage_does_not_speak_for_the_worker():
    assert run_local([Apply(stages.fork_and_exit)], items(1, 2)).data == [3, 3]
    assert run_local([Apply(stages.fork_and_return)], items(1, 2)).data == [1, 2]


def test_what_a_stage_leaves_running_ends_with_its_worker(tmp_path: Path):
    path = tmp_path / "pid"
    run_local([Apply(stages.leave_a_child)], items(str(path)))
    wait_until_gone([int(path.read_text())])


@pytest.mark.exhaustive
def test_a_process_that_prints_indefinitely_does_not_hold_the_run():
    assert run_local([Apply(stages.leave_a_chatterer)], items(1)).data == [1]


def test_a_full_disk_is_the_stages_own_error():
    ran = run_local([Apply(stages.write_to_a_full_disk)], items(1), raises=OSError)
    assert ran.error.errno == errno.ENOSPC
    assert "stage 'apply'" in ran.error.__notes__[0]


def test_setup_on_node_waits_for_another_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    log = tmp_path / "log"
    ended: list[object] = []
    other_run = threading.Thread(target=lambda: ended.append(run_local([Journal(log)], items(1))))
    with node_lock(f"{Journal.__module__}.{Journal.__qualname__}"):
        other_run.start()
        locks = Path("/proc/locks")
        wait_until(lambda: any("->" in line and "FLOCK" in line for line in locks.read_text().splitlines()))
        assert not log.exists()
    other_run.join()
    assert len(ended) == 1
    assert log.read_text().count("setup_on_node") == 1


@pytest.mark.parametrize(("end", "words"), [(hang, "stop_timeout_s"), (segfault, "SIGSEGV")])
def test_a_bad_end_does_not_lose_a_finished_run(end: Callable[[], None], words: str):
    ran = run_local([EndsInTeardown(end)], items(1, 2, 3), stop_timeout_s=0.2 if end is hang else 60.0)
    assert ran.data == [1, 2, 3]
    (note,) = [note for note in ran.report.notes if words in note]
    assert "during teardown" in note


def test_a_module_that_runs_its_pipeline_when_imported_is_refused(tmp_path: Path):
    (tmp_path / "careless.py").write_text(
        "from gpuexec import LocalExecutor, Pipeline\n"
        "from tests.process.stages import Apply, items\n"
        "class Mine(Apply): pass\n"
        "stage = Mine(abs)\n"
        "Pipeline('p', stages=[stage]).run(LocalExecutor(show_progress=False), initial_tasks=items(1))\n"
    )
    done = run_python("-c", "import careless", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    assert "starts a run when it is imported" in done.stderr.splitlines()[-3]
