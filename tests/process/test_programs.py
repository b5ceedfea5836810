"""Runs of programs of many kinds: in children, in threads, inside a stage, in a program that forks or is stopped."""

from __future__ import annotations

import multiprocessing.spawn
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuexec import ConfigurationError, Pipeline, events
from tests.process.running import local_executor, logged, run_local, run_python
from tests.process.stages import Apply, double, items
from tests.process.stages.endings import EndsOnNode
from tests.process.stages.programs import TearsDown, Waits, doubled_by_a_run, working_directory

SCRIPT = """
import multiprocessing, sys
from dataclasses import dataclass
from gpuexec import LocalExecutor, Pipeline, ProcessingStage
from tests.process.stages import Item, items

@dataclass(slots=True)
class Pair:
    first: int
    second: int

class Swaps(ProcessingStage[Item, Item]):
    name = "swaps"

    def process(self, task):
        task.data = Pair(task.data.second, task.data.first)
        return task

def run(queue):
    executor = LocalExecutor(show_progress=False, capsules=False)
    pairs = [task.data for task in Pipeline("p", stages=[Swaps()]).run(executor, initial_tasks=items(Pair(1, 2)))]
    queue.put([(type(pair) is Pair, pair.first) for pair in pairs])

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.SimpleQueue()
    process = context.Process(target=run, args=(queue,), daemon=True)
    process.start()
    process.join()
    print(queue.get() if not process.exitcode else process.exitcode)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_daemonic_child_of_multiprocessing_runs_a_scripts_pipeline(tmp_path: Path, start_method: str):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = run_python(script, start_method)
    assert done.stdout == "[(True, 2)]\n", done.stderr


PLUGIN = """
from gpuexec import ProcessingStage
from tests.process.running import run_local
from tests.process.stages import Item, items

OFFSET = 10

class Mine:
    def __init__(self, value):
        self.value = value + OFFSET

class Makes(ProcessingStage[Item, Item]):
    name = "makes"

    def process(self, task):
        task.data = Mine(task.data)
        return task

print([mine.value for mine in run_local([Makes()], items(1, 2)).data if type(mine) is Mine])
"""

BY_PATH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("plugin_by_path", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["plugin_by_path"] = module
spec.loader.exec_module(module)
"""


@pytest.mark.parametrize(
    "load",
    [
        BY_PATH,
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='a_name')",
        "import sys; exec(open(sys.argv[1]).read())",
    ],
    ids=["importlib", "runpy", "exec"],
)
def test_a_module_that_no_name_leads_to_runs_a_pipeline(tmp_path: Path, load: str):
    """As plugins are loaded, and tests in pytest's import mode ``importlib``."""
    script = tmp_path / "no name.py"
    script.write_text(PLUGIN)
    done = run_python("-c", load, script)
    assert done.stdout == "[11, 12]\n", done.stderr


def test_threads_run_pipelines_side_by_side():
    executor, pipeline = local_executor(), Pipeline("p", stages=[Apply(double)])

    def run(first: int) -> list[int]:
        return [task.data for task in pipeline.run(executor, initial_tasks=items(first, first + 1))]

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(run, [1, 10, 20])) == [[2, 4], [20, 22], [40, 42]]


def test_a_stage_runs_a_pipeline_of_its_own():
    assert run_local([Apply(doubled_by_a_run)], items(1, 2)).data == [2, 4]


@pytest.mark.parametrize(
    "end",
    [lambda run: run.close(), lambda run: sys.exit(), lambda run: None],
    ids=["closes it", "exits", "lets it go"],
)
def test_a_forked_child_does_not_end_its_parents_run(end):
    run = Pipeline("p", stages=[Apply(double)]).run_iter(local_executor(), items(*range(200)))
    results = [next(run).data]
    child = os.fork()
    if child == 0:
        try:
            end(run)
        finally:
            del run
            os._exit(0)
    os.waitpid(child, 0)
    results += [task.data for task in run]
    assert sorted(results) == list(range(0, 400, 2))


def test_a_forked_child_cannot_take_its_parents_tasks():
    run = Pipeline("p", stages=[Apply(double)]).run_iter(local_executor(), items(*range(200)))
    results = [next(run).data]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            list(run)
        except ConfigurationError as error:
            status = 0 if str(os.getppid()) in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    results += [task.data for task in run]
    assert sorted(results) == list(range(0, 400, 2))


PAUSE_S = 4.0


def pauses(noted: Path, *, whole_machine: bool = True, then: str = ":") -> subprocess.Popen[bytes]:
    """Stop this process, once a worker has written its pid to a file, and that worker too; let them go on later."""
    worker = f"$(cat '{noted}')" if whole_machine else ""
    paused = f"until [ -s '{noted}' ]; do sleep 0.05; done; paused=\"{os.getpid()} {worker}\"; kill -STOP $paused"
    return subprocess.Popen(["sh", "-c", f"{paused}; {then}; sleep {PAUSE_S}; kill -CONT $paused"])


@pytest.mark.parametrize("whole_machine", [False, True])
def test_a_pause_is_not_held_against_the_workers(tmp_path: Path, whole_machine: bool):
    """After Ctrl-Z, the worker has waited for the driver; where a virtual machine is paused, both have."""
    stage = Waits(tmp_path)
    with (
        logged() as messages,
        pauses(stage.at_work, whole_machine=whole_machine, then=f"touch '{stage.go}'"),
    ):
        ran = run_local([stage], items(1), batch_timeout_s=PAUSE_S / 2, max_attempts=1)
    assert not [message for message in messages if "most recent call first" in message], "nobody asked for stacks"
    assert ran.data == [1]


def test_nor_is_one_that_does_not_find_the_driver_waiting(tmp_path: Path):
    """As often where a fast stage runs beside a slow one: the driver is at work when the machine is paused."""
    stage, paused = Waits(tmp_path), tmp_path / "paused"

    class IsPaused:
        def on_event(self, event: events.RunEvent) -> None:
            if isinstance(event, events.Gauged) and stage.at_work.exists() and not paused.exists():
                paused.write_text(stage.at_work.read_text())
                time.sleep(1.0)  # it is stopped meanwhile

    with pauses(paused, then=f"touch '{stage.go}'"):
        ran = run_local([stage], items(1), batch_timeout_s=PAUSE_S / 2, max_attempts=1, observers=[IsPaused()])
    assert ran.data == [1]


def test_a_pause_in_teardown_does_not_cut_it_off(tmp_path: Path):
    stage = TearsDown(tmp_path)
    with pauses(stage.at_work):
        run_local([stage], items(1), stop_timeout_s=PAUSE_S - 1)
    assert (tmp_path / "torn down").exists()


def test_a_stage_may_take_over_the_signals_and_the_working_directory(tmp_path: Path):
    stage = Waits(tmp_path, takes_over=True)
    stage.go.touch()
    assert run_local([stage], items(1, 2)).data == [1, 2]


def test_all_workers_of_a_run_have_its_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those too that start after the caller of a stream has gone elsewhere."""
    monkeypatch.chdir(tmp_path)
    executor = local_executor(max_batches_per_worker=2)
    run = Pipeline("p", stages=[Apply(working_directory)]).run_iter(executor, items(*range(20)))
    seen = {next(run).data}
    monkeypatch.chdir("/")
    seen |= {task.data for task in run}
    assert {folder for folder, _ in seen} == {str(tmp_path)}
    assert len(seen) > 1, "several workers"


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    executor = local_executor(max_batches_per_worker=2)
    run = Pipeline("p", stages=[Apply(double)]).run_iter(executor, items(*range(20)))
    results = [next(run).data]
    gone.rmdir()
    results += [task.data for task in run]
    assert sorted(results) == list(range(0, 40, 2))
    assert run_local([Apply(double)], items(1, 2)).data == [2, 4]


def test_a_program_that_python_is_embedded_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert run_local([Apply(double)], items(1, 2)).data == [2, 4]


def test_a_user_without_a_folder_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """As in containers with a read-only file system, or for a user without a home: no capsule is kept, that is all."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, "/proc/none")
    with logged() as messages:
        ran = run_local([EndsOnNode("nowhere", None, Path("/proc/none"))], items(1), raises=OSError, capsules=True)
    assert any("could not be kept for replay" in message and "/proc/none" in message for message in messages)
    assert "stage 'ends'" in ran.error.__notes__[0], "the stage's own error"
