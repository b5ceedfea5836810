"""Runs of programs of many kinds: in children, in threads, inside a stage, in a program that forks or is stopped."""

from __future__ import annotations

import multiprocessing.spawn
import os
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuexec import ConfigurationError, Pipeline
from tests.process.running import local_executor, logged, run_local, run_python
from tests.process.stages import Apply, double, items
from tests.process.stages.endings import EndsOnNode
from tests.process.stages.programs import Waits, doubled_by_a_run, working_directory

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


@pytest.mark.parametrize("whose", ["the driver's", "the whole machine's"])
def test_a_pause_is_not_held_against_the_workers(tmp_path: Path, whose: str):
    """After Ctrl-Z, the worker has waited for the driver; where a virtual machine is paused, both have."""
    stage = Waits(tmp_path)
    paused, pause_s = str(os.getpid()), 4.0
    if whose == "the whole machine's":
        paused += f" $(cat '{stage.at_work}')"
    stopper = (
        f"until [ -s '{stage.at_work}' ]; do sleep 0.05; done; paused=\"{paused}\"; "
        f"kill -STOP $paused; touch {stage.go}; sleep {pause_s}; kill -CONT $paused"
    )
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", stopper], os.environ)
    with logged() as messages:
        ran = run_local([stage], items(1), batch_timeout_s=pause_s / 2, max_attempts=1)
    os.waitpid(pid, 0)
    assert not [message for message in messages if "most recent call first" in message], "nobody asked for stacks"
    assert ran.data == [1]


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
