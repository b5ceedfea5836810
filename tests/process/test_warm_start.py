"""Workers forked from a template: when a fork is safe, what workers still have of their own, and when templates end."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuexec import ConfigurationError, Resources, ResourcesError
from gpuexec.driver import early_template
from gpuexec.processes import kept_templates
from tests.nvml_sim import nodes
from tests.process import stages
from tests.process.running import ROOT, Ran, local_executor, run_local, run_python
from tests.process.stages import Apply, ApplyIn, items, warm
from tests.process.stages.gpus import OnGpu
from tests.process.waiting import wait_until

Importing = Callable[..., Apply]


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Importing]:
    """Make a stage whose module has this source, which only workers and templates execute, and this function."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TESTS_DRIVER", str(os.getpid()))
    # Python takes cached bytecode for that of a source with the same size and second of its last change.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def make(source: str, function: str = "def work(value): return value", name: str = "checked") -> Apply:
        only_there = "".join(f"    {line}\n" for line in ["pass", *source.splitlines()])
        module = f"module_of_{name}"
        (folder / f"{module}.py").write_text(
            f"import os\nif os.environ['TESTS_DRIVER'] != str(os.getpid()):\n{only_there}\n{function}\n"
        )
        imported.add(module)
        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        return Apply(importlib.import_module(module).work, name)

    imported: set[str] = set()
    yield make
    for module in imported:
        sys.modules.pop(module, None)


def is_warm(ran: Ran) -> bool:
    (answer,) = {worker.warm for worker in ran.report.workers}
    return answer


# ---- what makes a fork unsafe ------------------------------------------------------------------------------

UNSAFE = {
    "a thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "thread",
    ),
    "a thread without a Thread": ("import _thread, time\n_thread.start_new_thread(time.sleep, (60,))", "thread"),
    "a thread of C code": ("from tests.process.stages import warm\nwarm.start_c_thread()", "thread"),
    "a file": ("file = open(__file__)", "file"),
    "a file to write to": ("import tempfile\nfile = tempfile.TemporaryFile()", "file"),
    "a socket": ("import socket\nlistener = socket.socket()", "socket"),
    "a pipe": ("ends = os.pipe()", "pipe"),
    "an event loop": ("import asyncio\nloop = asyncio.new_event_loop()", "event loops"),
    "a process": ("import subprocess\nchild = subprocess.Popen(['sleep', '60'])", "started a process"),
    "shared memory": ("import mmap\nshared = mmap.mmap(-1, 4096)", "memory that processes share"),
    "a timer": ("import signal\nsignal.signal(signal.SIGALRM, print)\nsignal.alarm(60)", "timer"),
    "a handler of SIGCHLD": ("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)", "SIGCHLD"),
    "a temporary folder": ("import tempfile\nfolder = tempfile.mkdtemp()", "temporary folder"),
    "a seed": ("import random\nrandom.seed(1)", "seeded random"),
    "a seed of numpy": ("import numpy.random\nnumpy.random.seed(1)", "seeded numpy.random"),
    "a generator": ("import random\nown = random.Random()", "generator of random numbers (random.Random)"),
    "a generator of numpy": ("import numpy\nown = numpy.random.default_rng()", "(numpy.random._generator.Generator)"),
}


@pytest.mark.parametrize(("source", "found"), UNSAFE.values(), ids=UNSAFE)
def test_what_an_import_must_not_do(importing: Importing, source: str, found: str):
    ran = run_local([importing(source), Apply(stages.double, "other")], items(1), fusion="off")
    assert ran.data == [2]
    assert {w.stage_name: w.warm for w in ran.report.workers} == {"checked": False, "other": True}
    (note,) = [note for note in ran.report.notes if "fork" in note]
    assert found in note
    assert "module 'module_of_checked'" in note
    assert [template.stage_names for template in ran.report.templates] == [("other",)]


SAFE = {
    "a file that is closed": "open(__file__).close()",
    "a thread that has ended": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "a socket that is closed": "import socket\nsocket.socket().close()",
    "random numbers": "import random\n[random.random() for _ in range(5000)]",
    "random numbers of numpy": "import numpy\nnumpy.random.random(5000)",
    "the null device": "null = open(os.devnull, 'w')",
    "threads that end before a fork": "import numpy\nnumpy.ones((300, 300)) @ numpy.ones((300, 300))",
}


@pytest.mark.parametrize("source", SAFE.values(), ids=SAFE)
def test_what_an_import_may_do(importing: Importing, source: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    ran = run_local([importing(source)], items(1))
    assert is_warm(ran), ran.report.notes


def test_arrows_thread_survives(importing: Importing):
    ran = run_local(
        [
            importing(
                "import pandas\nimport pyarrow", "def work(value):\n    return len(pandas.DataFrame({'a': value}))"
            )
        ],
        items([1, 2]),
    )
    assert ran.data == [2]
    assert is_warm(ran), ran.report.notes


FAKE_TORCH = """
class cuda:
    is_initialized = staticmethod(lambda: cuda.initialized)
    initialized = False
    @staticmethod
    def init():
        cuda.initialized = True
"""


def test_cuda_initialised_by_torch(importing: Importing, tmp_path: Path):
    (tmp_path / "modules" / "torch.py").write_text(FAKE_TORCH)
    ran = run_local([importing("import torch\ntorch.cuda.init()")], items(1))
    assert not is_warm(ran)
    assert "initialised CUDA" in ran.report.notes[-1]


def test_torch_without_cuda(importing: Importing, tmp_path: Path):
    (tmp_path / "modules" / "torch.py").write_text(FAKE_TORCH)
    assert is_warm(run_local([importing("import torch")], items(1)))


@pytest.mark.parametrize("device", ["nvidia0", "nvidiactl"])
def test_a_gpu_that_is_open(importing: Importing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str):
    path = tmp_path / device
    path.touch()
    monkeypatch.setenv("OPENED", str(path))
    ran = run_local(
        [importing("from tests.process.stages import warm\ngpu = warm.open_gpu(os.environ['OPENED'])")], items(1)
    )
    assert not is_warm(ran)
    assert f"uses a GPU ({path} is open)" in ran.report.notes[-1]


def test_nvml_that_is_initialised(importing: Importing, nvml_node):
    nvml_node(nodes.unequal())
    ran = run_local([importing("import pynvml\npynvml.nvmlInit()")], items(1))
    assert not is_warm(ran)
    assert "initialised NVML" in ran.report.notes[-1]


def test_nvml_that_was_shut_down(importing: Importing, nvml_node):
    nvml_node(nodes.unequal())
    assert is_warm(run_local([importing("import pynvml\npynvml.nvmlInit()\npynvml.nvmlShutdown()")], items(1)))


def test_what_depends_on_a_workers_gpu_is_not_read_for_all(importing: Importing, nvml_node):
    nvml_node(nodes.unequal())
    stage = importing("device = os.environ.get('CUDA_VISIBLE_DEVICES')")
    assert is_warm(run_local([stage], items(1))), "it sees none, as all others do"
    ran = run_local([stage.with_(resources=Resources(gpus=1))], items(1))
    assert not is_warm(ran)
    assert "'module_of_checked' read CUDA_VISIBLE_DEVICES" in ran.report.notes[-1]


def test_a_module_may_read_all_variables_as_tqdm_does(importing: Importing, no_templates: None, tmp_path: Path):
    stage = importing("everything = list(os.environ.items())")
    assert is_warm(run_local([stage], items(1), checkpoint=tmp_path)), "with a checkpoint, no template is started early"


def test_workers_of_a_template_are_pinned_to_gpus_of_their_own(nvml_node):
    nvml_node(nodes.unequal())
    ran = run_local([OnGpu(workers=3, gpus=1)], items(*range(6)))
    assert is_warm(ran)
    assert len({worker.worker_id for worker in ran.report.workers}) == 3
    for task in ran.tasks:
        assert task.data["visible"] == task.data["expected"] == task.data["uuids"][0]


def test_fused_stages_are_forked_together(importing: Importing):
    ran = run_local([Apply(stages.double, "first"), importing("")], items(1))
    assert ran.data == [2]
    assert is_warm(ran)
    assert [template.stage_names for template in ran.report.templates] == [("first", "checked")]
    unsafe = run_local([Apply(stages.double, "first"), importing("import socket\nown = socket.socket()")], items(1))
    assert not is_warm(unsafe)
    assert "module 'module_of_checked' opened a socket" in unsafe.report.notes[-1]


def test_a_second_unsafe_stage_leaves_the_rest_to_be_spawned(importing: Importing):
    first = importing("import socket\nown = socket.socket()", name="unsafe_one")
    second = importing("import socket\nown = socket.socket()", name="unsafe_two")
    ran = run_local([first, second, Apply(stages.double, "other")], items(1), fusion="off")
    assert ran.data == [2]
    assert {worker.warm for worker in ran.report.workers} == {False}


def test_what_was_found_is_remembered_until_the_file_changes(importing: Importing):
    stage = importing("import socket\nown = socket.socket()")
    assert not is_warm(run_local([stage], items(1)))
    again = run_local([stage], items(1))
    assert not is_warm(again)
    assert "socket" in again.report.notes[-1]
    mended = importing("own = 1")
    assert is_warm(run_local([mended], items(1)))


def test_an_import_that_fails_is_reported_by_the_worker(importing: Importing):
    ran = run_local([importing("import no_such_module")], items(1), raises=ModuleNotFoundError)
    assert ran.report.templates == []


def test_spawn_is_an_option():
    ran = run_local([Apply(stages.double)], items(1), start_method="spawn")
    assert ran.data == [2]
    assert not is_warm(ran)
    assert ran.report.templates == []


# ---- what a worker has of its own ----------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["random.random()", "float(numpy.random.random())", "str(uuid.uuid4())"])
def test_workers_draw_random_numbers_of_their_own(importing: Importing, draw: str, tmp_path: Path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    use = f"def work(folder):\n    from tests.process.stages import warm\n    warm.meet(folder)\n    return {draw}"
    stage = importing("import random, uuid, numpy.random", use)
    ran = run_local([ApplyIn(2, stage.function)], items(*[str(meeting)] * 2))
    assert is_warm(ran)
    assert len(ran.report.workers) == len(set(ran.data)) == 2


def test_workers_of_a_module_that_seeds_keep_its_seed(importing: Importing):
    stage = importing("import random\nrandom.seed(5)", "import random\ndef work(value): return random.random()")
    import random

    assert run_local([stage], items(1)).data == [random.Random(5).random()]


def test_hooks_of_a_fork_run_in_the_worker(importing: Importing):
    stage = importing(
        "seen = []\nos.register_at_fork(after_in_child=lambda: seen.append(os.getpid()))",
        "def work(value): return seen == [os.getpid()]",
    )
    ran = run_local([stage], items(1))
    assert is_warm(ran)
    assert ran.data == [True]


def test_memory_stays_shared():
    ran = run_local([Apply(warm.frozen_objects)], items(1))
    assert ran.data[0] > 1000


def test_what_is_printed_at_import_is_printed_once(importing: Importing):
    from tests.process.running import logged

    stage = importing(
        "print('imported')", "def work(value):\n    print('worked', end='', flush=True)\n    return value"
    )
    with logged() as messages:
        run_local([stage], items(1))
    assert [m for m in messages if m.endswith("imported")] == ["checked-template | imported"]
    assert "checked-0 | worked" in messages


@pytest.mark.parametrize("method", ["warm", "spawn"])
def test_files_that_nobody_closes_are_written_when_a_worker_ends(tmp_path: Path, method: str):
    path = tmp_path / "left_open"
    run_local([Apply(warm.write_and_leave_open)], items(str(path)), start_method=method)
    assert path.read_text() == "text"
    assert path.with_suffix(".bytes").read_bytes() == b"bytes"
    assert path.with_suffix(".exit").exists()


COVERED = """
from gpuexec import ProcessingStage
class Covered(ProcessingStage):
    name = "covered"
    def process(self, task):
        task.data += 1
        return task
    def teardown(self):
        self.done = True
"""
RUNS_COVERED = """
from covered import Covered
from tests.process.running import run_local
from tests.process.stages import items
if __name__ == "__main__":
    assert run_local([Covered()], items(1), warm_idle_s=0).report.workers[0].warm
"""


def test_coverage_measures_warm_workers(tmp_path: Path):
    (tmp_path / "covered.py").write_text(COVERED)
    (tmp_path / "script.py").write_text(RUNS_COVERED)
    settings = tmp_path / "settings"
    settings.write_text(
        f"[run]\nparallel = true\npatch = subprocess\ndata_file = {tmp_path}/data\nsource = {tmp_path}\n"
    )

    def coverage(*arguments: object) -> str:
        surroundings = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
        return run_python("-m", "coverage", *arguments, **surroundings).stdout

    rcfile = f"--rcfile={settings}"
    coverage("run", rcfile, tmp_path / "script.py")
    coverage("combine", rcfile)
    assert coverage("report", rcfile, "--include=*/covered.py", "--format=total").strip() == "100"


def test_each_worker_is_reaped_with_what_it_used():
    ran = run_local([Apply(warm.use_cpu)], items(1))
    (worker,) = ran.report.workers
    assert worker.warm
    assert worker.exit_code == 0
    assert worker.cpu_s >= 0.1
    assert worker.max_rss_bytes > 2**20


def test_so_is_one_that_is_spawned():
    ran = run_local([Apply(warm.use_cpu)], items(1), start_method="spawn")
    assert ran.report.workers[0].cpu_s >= 0.1


def test_a_worker_sees_its_environment_and_search_path(importing: Importing):
    stage = importing(
        "import sys\nsys.path.append('/added/by/import')", "import sys\ndef work(value): return sys.path[-1]"
    )
    assert run_local([stage], items(1)).data == ["/added/by/import"]


# ---- the first template of a program --------------------------------------------------------------------------


@pytest.fixture
def started_early(no_templates: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the templates that are started before the plan is made, by pid."""
    pids = []

    class Noted(early_template.Template):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            pids.append(self.pid)

    monkeypatch.setattr(early_template, "Template", Noted)
    return pids


@pytest.mark.parametrize("options", [{}, {"runtime_env": {"env_vars": {"SOMETHING": "else"}}}, {"warm_idle_s": 0}])
def test_it_is_started_before_the_plan_is_made(started_early: list[int], options: dict[str, Any]):
    (template,) = run_local([Apply(stages.double)], items(1), **options).report.templates
    assert started_early == [template.pid]
    assert not template.kept  # by an earlier run


def test_it_is_the_only_one_that_is_started_early(started_early: list[int]):
    for _ in range(2):
        run_local([Apply(stages.double)], items(1))
    assert len(started_early) == 1


def test_a_wrong_guess_of_how_workers_begin_ends_it(started_early: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(early_template, "how_workers_log", lambda level: [level, {"another": 10}, 0])
    (template,) = run_local([Apply(stages.double)], items(1)).report.templates
    (early,) = started_early
    assert template.pid != early
    assert not psutil.pid_exists(early)


def test_a_plan_that_fails_ends_it(started_early: list[int]):
    needs_gpu = Apply(stages.double, "embed").with_(resources=Resources(gpus=500))
    run_local([Apply(stages.double), needs_gpu], items(1), raises=ResourcesError)
    (early,) = started_early
    assert not psutil.pid_exists(early)


@pytest.mark.parametrize("cpus", [float("nan"), -1, "many"])
def test_what_is_no_number_of_cpus_is_for_the_planner_to_refuse(started_early: list[int], cpus: Any):
    stage = Apply(stages.double)
    stage.resources = Resources()
    stage.resources.cpus = cpus
    run_local([stage], items(1), raises=(ConfigurationError, ValueError))
    assert not started_early


@pytest.mark.parametrize("options", [{"start_method": "spawn"}, {"checkpoint": "folder"}])
def test_none_is_started_for_runs_that_would_not_take_it(
    started_early: list[int], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run_local([Apply(stages.double)], items(1), **options)
    assert not started_early


# ---- when a template ends --------------------------------------------------------------------------------------


def test_the_next_run_takes_the_template(no_templates: None):
    executor = local_executor()
    pids = []
    for _ in range(2):
        executor.execute([Apply(stages.double)], items(1))
        (template,) = executor.last_report.templates
        pids.append((template.pid, template.kept))
    assert pids[0][0] == pids[1][0]
    assert [kept for _, kept in pids] == [False, True]


def template_of(stage: Any, **options: Any) -> int:
    (template,) = run_local([stage], items(1), **options).report.templates
    return template.pid


def test_a_changed_source_file_means_a_new_template(importing: Importing):
    first = run_local([importing("", "def work(value): return 'before'")], items(1))
    second = run_local([importing("", "def work(value): return 'after!'")], items(1))
    assert (first.data, second.data) == (["before"], ["after!"])
    assert first.report.templates[0].pid != second.report.templates[0].pid


@pytest.mark.parametrize("change", ["environment", "search path", "folder", "runtime_env"])
def test_other_surroundings_mean_a_new_template(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    before = template_of(Apply(stages.double))
    options = {}
    if change == "environment":
        monkeypatch.setenv("SOMETHING", "else")
    elif change == "search path":
        monkeypatch.syspath_prepend(tmp_path)
    elif change == "folder":
        monkeypatch.chdir(tmp_path)
    else:
        options = {"runtime_env": {"env_vars": {"SOMETHING": "else"}}}
    assert template_of(Apply(stages.double), **options) != before


def test_stages_with_other_variables_have_a_template_of_their_own():
    ran = run_local(
        [Apply(stages.double, "a"), warm.OtherVariables(stages.double, "b"), Apply(stages.double, "c")],
        items(1),
        fusion="off",
    )
    assert sorted(template.stage_names for template in ran.report.templates) == [("a", "c"), ("b",)]


def test_it_ends_with_the_run_if_it_is_not_to_be_kept():
    pid = template_of(Apply(stages.double), warm_idle_s=0)
    assert not psutil.pid_exists(pid)


def test_it_ends_when_it_was_idle_for_long_enough():
    pid = template_of(Apply(stages.double), warm_idle_s=0.05)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert template_of(Apply(stages.double)) != pid


def test_few_are_kept():
    for number in range(6):
        template_of(Apply(stages.double), runtime_env={"env_vars": {"NUMBER": str(number)}})
    assert len(kept_templates.kept()) == 4


SCRIPT = """
import os, sys, time
from tests.process.running import local_executor
from tests.process.stages import Apply, hang, double, items
if __name__ == "__main__":
    executor = local_executor()
    executor.execute([Apply(double)], items(1))
    print(executor.last_report.templates[0].pid, flush=True)
    if "crash" in sys.argv:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["end", "crash"])
def test_it_ends_with_the_program(tmp_path: Path, how: str):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    pid = int(run_python(script, how, PYTHONPATH=str(ROOT)).stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_forked_program_leaves_its_parents_template_alone():
    pid = template_of(Apply(stages.double))
    child = os.fork()
    if child == 0:
        os._exit(len(kept_templates.kept()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert template_of(Apply(stages.double)) == pid


def test_the_death_of_a_template_costs_no_attempt(tmp_path: Path):
    ran = run_local([warm.KillsTemplate(tmp_path)], items(*range(8)), max_attempts=1)
    assert ran.data == list(range(8))
    (note,) = [note for note in ran.report.notes if "template process" in note]
    assert "killed by SIGKILL" in note
    assert {worker.warm for worker in ran.report.workers} == {True, False}
    assert not ran.report.failures


def test_a_template_that_hangs_at_import_is_given_up(importing: Importing):
    from gpuexec import WorkerDied

    ran = run_local(
        [importing("import time\ntime.sleep(100)")], items(1), raises=WorkerDied, setup_timeout_s=1.0, max_attempts=1
    )
    assert "setup_timeout_s" in str(ran.error)


def test_the_run_ends_while_a_template_imports(importing: Importing, no_templates, tmp_path: Path):
    begun = tmp_path / "begun"
    stage = importing(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(100)")
    executor = local_executor()

    def cancel() -> None:
        wait_until(begun.exists)
        executor.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Exception, match="cancel"):
        executor.execute([stage], items(1))
    thread.join()
    assert not kept_templates.kept()
