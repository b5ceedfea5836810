"""Every way a run can end other than well: which error, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from gpuexec import (
    LocalExecutor,
    Pipeline,
    ProcessingStage,
    ResultNotPicklable,
    StageContractError,
    StageNotPicklable,
    WorkerDied,
)
from gpuexec.errors import RemoteStageError, RemoteTraceback
from gpuexec.stage.node_lock import node_lock
from tests.process import stages
from tests.process.stages import Apply, Journal, items


def run(*given: ProcessingStage, tasks=None, **options):
    executor = LocalExecutor(show_progress=False, **options)
    return Pipeline("p", stages=list(given)).run(executor, initial_tasks=tasks or items(1, 2, 3))


def test_a_stages_exception_keeps_its_type_and_tells_where(tmp_path: Path):
    with pytest.raises(LookupError, match="no 2") as caught:
        run(Apply(abs, "first"), Journal(tmp_path / "log", fail_on=2))
    (note,) = caught.value.__notes__
    assert "stage 'journal'" in note
    assert "worker 'journal-0'" in note
    assert "0_1_0" in note
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert cause.task_ids == ("0_1_0",)
    assert "stages.py" in cause.text
    assert "gpuexec/worker/loop.py" not in cause.text.replace("\\", "/").splitlines()[1]


@pytest.mark.parametrize("phase", ["setup_on_node", "setup"])
def test_life_cycle_methods_that_raise(tmp_path: Path, phase: str):
    with pytest.raises(LookupError, match=f"in {phase}") as caught:
        run(Journal(tmp_path / "log", fail_in=phase))
    assert f"in {phase}() of stage 'journal'" in caught.value.__notes__[0]


def test_an_exception_that_cannot_travel_comes_as_text():
    with pytest.raises(RemoteStageError, match=r"Choosy: .*5: because"):
        run(Apply(stages.raise_choosy))


def test_an_exception_that_cannot_say_what_it_is():
    with pytest.raises(stages.Mute) as caught:
        run(Apply(stages.raise_mute))
    assert "stage 'apply'" in caught.value.__notes__[0]


def test_sys_exit_in_a_stage_does_not_end_the_driver():
    with pytest.raises(RemoteStageError, match="tried to end its process"):
        run(Apply(stages.call_exit))


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        (stages.kill_self, -signal.SIGKILL, "SIGKILL"),
        (stages.segfault, -signal.SIGSEGV, "SIGSEGV"),
        (stages.leave, 7, "code 7"),
        (stages.terminate_self, 143, "another process sent it SIGTERM"),
    ],
)
def test_a_dead_worker_is_named_with_its_cause(function, code: int, words: str):
    with pytest.raises(WorkerDied, match=words) as caught:
        run(Apply(function))
    died = caught.value
    assert (died.stage, died.exit_code, died.phase) == ("apply", code, "process")
    assert died.worker_id.startswith("apply-")
    assert "0_0" in died.task_ids


def test_a_killed_worker_tells_its_memory_and_what_the_kernel_counted():
    with pytest.raises(WorkerDied) as caught:
        run(Apply(stages.kill_self_at_two).with_(num_workers=1), max_attempts=1)
    assert "its memory peaked at" in caught.value.cause


def test_a_dead_worker_leaves_its_last_lines():
    with pytest.raises(WorkerDied) as caught:
        run(Apply(stages.kill_self))
    assert "about to die" in caught.value.last_lines
    with pytest.raises(WorkerDied) as caught:
        run(Apply(stages.segfault))
    assert any("Segmentation fault" in line for line in caught.value.last_lines), "faulthandler's dump"


def test_a_result_that_cannot_be_pickled():
    with pytest.raises(ResultNotPicklable, match=r"stage 'apply' returned a task that cannot be sent on.*lock"):
        run(Apply(stages.return_lock))


def test_a_result_that_pickles_but_does_not_unpickle():
    with pytest.raises(ResultNotPicklable, match="made by stage 'first' was pickled but cannot be unpickled"):
        run(Apply(stages.return_pickles_only, "first"), Apply(id, "second"))
    with pytest.raises(ResultNotPicklable, match="returned by stage 'last' was pickled but cannot be unpickled here"):
        run(Apply(stages.return_pickles_only, "last"))


def test_an_unpicklable_stage_is_refused_before_anything_starts():
    stage = Apply(abs)
    stage.handle = threading.Lock()
    with pytest.raises(StageNotPicklable, match=r"stage 'apply'.*attribute handle.*setup\(\)"):
        run(stage)


def test_an_unpicklable_initial_task():
    with pytest.raises(StageNotPicklable, match="initial task 0"):
        run(Apply(abs), tasks=items(open_generator()))


def open_generator():
    return (i for i in range(3))


class ReturnsText(ProcessingStage):
    name = "text"

    def process(self, task):
        return "done"


def test_a_stage_that_returns_the_wrong_type():
    with pytest.raises(StageContractError, match=r"stage 'text' returned a str instead of a Task"):
        run(ReturnsText())


class CannotImport(ProcessingStage):
    name = "cannot_import"

    def __reduce__(self):
        return (__import__, ("a_module_that_is_not_there",))

    def process(self, task):
        return task


def test_a_stage_whose_module_the_worker_lacks():
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        run(CannotImport())


DRIVER = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process import stages
from tests.process.stages import Apply, items
function = getattr(stages, sys.argv[1])
tasks = items(*sys.argv[2:])
try:
    executor = LocalExecutor(show_progress=False, stop_timeout_s=60)
    Pipeline("p", stages=[Apply(function)]).run(executor, initial_tasks=tasks)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
"""


@pytest.fixture
def driver():
    """Start a driver in a session of its own; whatever is left of it is killed."""
    started = []

    def start(*args: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(DRIVER), *args],
            cwd=Path(__file__).parents[2],
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


def wait_for_text(path: Path, driver: subprocess.Popen) -> str:
    while not (path.exists() and path.read_text()):
        assert driver.poll() is None, "the driver ended early"
        os.sched_yield()
    return path.read_text()


def wait_until_gone(pids: list[int], seconds: float) -> list[psutil.Process]:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_nor_its_child_outlives_a_killed_driver(driver, tmp_path: Path, how):
    path = tmp_path / "pids"
    process = driver("start_child_and_wait", str(path))
    pids = [int(word) for word in wait_for_text(path, process).split()]
    pids += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(how)
    assert process.wait(5) == (-how if how is signal.SIGKILL else 143), "SIGTERM is heard, as shells report it"
    assert not wait_until_gone(pids, 2)


def test_ctrl_c_ends_a_run_that_is_stuck_in_a_stage(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("announce_and_wait", str(path))
    worker = int(wait_for_text(path, process))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=5)  # the promise: within 5 s
    assert (process.returncode, out) == (130, "interrupted\n")
    assert not psutil.pid_exists(worker)


def test_a_worker_that_ignores_ctrl_cs_grace_is_killed(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("ignore_everything", str(path))
    worker = int(wait_for_text(path, process))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert not psutil.pid_exists(worker)


def test_a_second_ctrl_c_ends_a_run_at_once(driver, tmp_path: Path):
    path = tmp_path / "pids"
    process = driver("note_and_ignore_termination", str(path))
    worker = int(wait_for_text(path, process))
    process.send_signal(signal.SIGINT)
    wait_for_text(tmp_path / "pids.told", process)  # the first has reached the worker, which does not care
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=2)  # less than the grace of the first
    assert process.returncode == 130
    assert not psutil.pid_exists(worker)


def test_a_signal_that_arrives_inside_a_finalizer_still_ends_the_worker(driver, tmp_path: Path):
    """Python drops what a finalizer raises; the worker must notice afterwards."""
    path = tmp_path / "pids"
    process = driver("wait_in_a_finalizer", str(path))
    worker = int(wait_for_text(path, process))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert (tmp_path / "pids.after").exists(), "the stage's code went on after the finalizer"
    assert not psutil.pid_exists(worker)


def test_a_stage_may_start_processes_of_its_own():
    out = run(Apply(stages.sum_in_a_pool), tasks=items(4))
    assert [task.data for task in out] == [0 + 1 + 4 + 9]


def test_a_forked_child_that_leaves_the_stage_does_not_speak_for_the_worker():
    assert [task.data for task in run(Apply(stages.fork_and_exit), tasks=items(1, 2))] == [3, 3]
    assert [task.data for task in run(Apply(stages.fork_and_return), tasks=items(1, 2))] == [1, 2]


def test_what_a_stage_leaves_running_ends_with_its_worker(tmp_path: Path):
    path = tmp_path / "pid"
    run(Apply(stages.leave_a_child), tasks=items(str(path)))
    assert not wait_until_gone([int(path.read_text())], 2)


def test_a_process_that_prints_for_ever_does_not_hold_the_run():
    assert [task.data for task in run(Apply(stages.leave_a_chatterer), tasks=items(1))] == [1]


def test_a_full_disk_is_the_stages_own_error():
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(Apply(stages.write_to_a_full_disk))
    assert "stage 'apply'" in caught.value.__notes__[0]


def test_setup_on_node_waits_for_another_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    log = tmp_path / "log"
    ended: list[object] = []
    other_run = threading.Thread(target=lambda: ended.append(run(Journal(log))))
    with node_lock(f"{Journal.__module__}.{Journal.__qualname__}"):
        other_run.start()
        while not any("->" in line and "FLOCK" in line for line in Path("/proc/locks").read_text().splitlines()):
            os.sched_yield()
        assert not log.exists()
    other_run.join()
    assert len(ended) == 1
    assert log.read_text().count("setup_on_node") == 1


@pytest.mark.parametrize(("how", "said"), [("hang", "did not stop within stop_timeout_s"), ("segfault", "SIGSEGV")])
def test_a_broken_end_does_not_lose_a_finished_run(how: str, said: str):
    executor = LocalExecutor(show_progress=False, stop_timeout_s=0.2)
    out = Pipeline("p", stages=[EndsBadly(how)]).run(executor, initial_tasks=items(1, 2, 3))
    assert [task.data for task in out] == [1, 2, 3]
    (note,) = executor.last_report.notes
    assert said in note
    assert "during teardown" in note


class EndsBadly(ProcessingStage):
    name = "ends_badly"

    def __init__(self, how: str) -> None:
        self.how = how

    def process(self, task):
        return task

    def teardown(self):
        if self.how == "segfault":
            stages.segfault(None)
        while True:
            signal.pause()


def test_a_module_that_runs_its_pipeline_when_imported_is_told_so(tmp_path: Path):
    (tmp_path / "careless.py").write_text(
        "from gpuexec import LocalExecutor, Pipeline\n"
        "from tests.process.stages import Apply, items\n"
        "class Mine(Apply): pass\n"
        "stage = Mine(abs)\n"
        "Pipeline('p', stages=[stage]).run(LocalExecutor(show_progress=False), initial_tasks=items(1))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import careless"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "starts a run when it is imported" in done.stderr.splitlines()[-2]
