"""What a worker's process inherits, and what of the driver's surroundings does not reach it."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec import ProcessingStage
from gpuexec.capsules.read import load_capsule
from gpuexec.curator.ray_actors import ID_GENERATOR_VARIABLE
from gpuexec.errors import StartRefused
from tests.process import stages
from tests.process.running import ROOT, logged, run_command, run_local, run_python
from tests.process.stages import Apply, Item, environment, hash_of, items, oom_score
from tests.process.waiting import wait_until


class Hashes(ProcessingStage[Item, Item]):
    """Notes the hash of a text in every worker; the first worker to get a 0 dies of it, once."""

    name = "hashes"

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.workers = workers

    def num_workers(self) -> int:
        return self.workers

    def setup(self, worker_metadata: object = None) -> None:
        (self.folder / f"{os.getpid()}.hash").write_text(str(hash("a text")))
        self.wait_for(self.workers)

    def wait_for(self, workers: int) -> None:
        wait_until(lambda: len(list(self.folder.glob("*.hash"))) >= workers)

    def process(self, task: Item) -> Item:
        died = self.folder / "died"
        if task.data == 0 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.wait_for(self.workers + 1)  # the one that replaces the dead one
        return task


@pytest.fixture
def no_seed(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


def test_all_workers_of_a_run_share_a_hash_seed(tmp_path, no_seed):
    run_local([Hashes(tmp_path)], items(0, 1, 2, 3))
    hashes = [path.read_text() for path in tmp_path.glob("*.hash")]
    assert len(hashes) == 3
    assert len(set(hashes)) == 1


def test_the_users_hash_seed_wins(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    expected = subprocess.run(
        [sys.executable, "-c", "print(hash('a text'))"], capture_output=True, text=True, check=True
    ).stdout
    assert run_local([Apply(hash_of)], items("a text")).data == [int(expected)]
    assert (
        run_local([Apply(environment)], items(0), runtime_env={"env_vars": {"PYTHONHASHSEED": "8"}}).data[0][
            "PYTHONHASHSEED"
        ]
        == "8"
    )


def test_runs_on_one_checkpoint_share_a_hash_seed(tmp_path, no_seed):
    pipeline = [Apply(environment)]
    seeds = [run_local(pipeline, items(*range(n)), checkpoint=tmp_path).data[0]["PYTHONHASHSEED"] for n in (1, 2)]
    assert seeds[0] == seeds[1]


def test_a_replay_hashes_as_the_run_did(tmp_path, no_seed):
    run_local([Apply(stages.raise_hash)], items("a text"), raises=ValueError, capsule_dir=tmp_path)
    (capsule,) = tmp_path.iterdir()
    error = load_capsule(capsule).failure.text
    replayed = run_command("replay", capsule)
    assert replayed.returncode == 1
    assert error in replayed.stderr
    assert "PYTHONHASHSEED" not in replayed.stderr
    other = run_command("replay", capsule, PYTHONHASHSEED="1")
    assert "the run's PYTHONHASHSEED was" in other.stderr
    assert error not in other.stderr.partition("opening the capsule")[2]


def test_what_a_launcher_set_does_not_reach_workers(monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with logged("INFO") as messages:
        (seen,) = run_local([Apply(environment)], items(0), runtime_env={"env_vars": {"RANK": "5"}}).data
    assert "LOCAL_RANK" not in seen
    assert "MASTER_PORT" not in seen
    assert seen["RANK"] == "5", "asked for"
    assert sum("LOCAL_RANK, MASTER_PORT, RANK" in message for message in messages) == 1


@pytest.mark.parametrize(
    "name", ["socket.py", "types.py", "queue/__init__.py", "gpuexec/__init__.py", "faulthandler.py"]
)
def test_names_in_the_working_directory_do_no_harm(tmp_path, monkeypatch, name):
    shadow = tmp_path / name
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text("raise RuntimeError('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *(entry for entry in sys.path if entry)])
    assert run_local([Apply(stages.double)], items(1, 2)).data == [2, 4]


def test_workers_import_what_the_driver_would_of_its_working_directory(tmp_path, monkeypatch):
    (tmp_path / "found_beside.py").write_text("VALUE = 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert run_local([Apply(stages.import_beside)], items(1)).data == [5]


def test_the_kernel_takes_workers_before_the_driver():
    own = oom_score(None)
    (worker,) = run_local([Apply(oom_score)], items(0)).data
    assert worker > own or own == worker == 1000


def test_workers_side_by_side_look_for_ports_in_ranges_of_their_own(monkeypatch):
    monkeypatch.delenv("VLLM_PORT", raising=False)
    ran = run_local([Apply(environment, "a"), Apply(stages.add_environment, "b")], items(0), fusion="off")
    ((first, second),) = ran.data
    assert abs(int(first["VLLM_PORT"]) - int(second["VLLM_PORT"])) >= 32
    monkeypatch.setenv("VLLM_PORT", "6000")
    assert run_local([Apply(environment)], items(0)).data[0]["VLLM_PORT"] == "6000"


def test_workers_of_a_worker_do_not_ask_for_ids_where_it_does(monkeypatch):
    monkeypatch.setenv(ID_GENERATOR_VARIABLE, "an address of another run")
    assert run_local([Apply(environment)], items(0)).data[0][ID_GENERATOR_VARIABLE] == ""


@pytest.mark.parametrize("flag", ["-E", "-I", "-P", "-s"])
def test_workers_of_an_interpreter_with_flags(tmp_path, no_seed, flag):
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.process.running import run_local
from tests.process.stages import Apply, environment, hash_of, items
if __name__ == "__main__":
    (seen,) = run_local([Apply(environment)], items(0)).data
    print("PYTHONHASHSEED" in seen, "PYTHONUNBUFFERED" in seen)
    (again,) = run_local([Apply(hash_of)], items("a text"), runtime_env={{"env_vars": {{"PYTHONHASHSEED": "7"}}}}).data
    print(again)
""")
    done = run_python(flag, script, PYTHONUNBUFFERED="1")
    hashed = run_python("-c", "print(hash('a text'))", PYTHONHASHSEED="7").stdout
    assert done.stdout == f"True {flag not in ('-E', '-I')}\n{hashed}", done.stderr


def test_a_driver_that_inherits_orphans_reaps_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import ctypes
import psutil
from tests.process.running import run_local
from tests.process.stages import Apply, items, leave_children
PR_SET_CHILD_SUBREAPER = 36
if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    left = run_local([Apply(leave_children)], items(1, 2), warm_idle_s=0).data
    print(len(left), [child.status() for child in psutil.Process().children(recursive=True)])
""")
    done = run_python(script)
    assert done.stdout == "2 []\n", done.stderr


# ---- when the system refuses a process -------------------------------------------------------------------


@contextlib.contextmanager
def room_for_descriptors(count: int) -> Iterator[None]:
    """Let this process open at most ``count`` more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    free = (number for number in itertools.count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Several(Apply):
    """Wants four workers."""

    def num_workers(self) -> int:
        return 4


def test_a_stage_goes_on_with_the_workers_it_has(no_templates: None):
    with logged("WARNING") as messages, room_for_descriptors(22):
        ran = run_local([Several(stages.pid_after_a_while)], items(*range(40)))
    assert len(ran.data) == 40
    assert 1 <= len(set(ran.data)) < 4
    assert sum("goes on with the" in message and "ulimit -n" in message for message in messages) == 1


def test_a_stage_without_any_worker_ends_the_run_and_names_the_limit(no_templates: None):
    with room_for_descriptors(9):
        ran = run_local([Several(stages.pid_after_a_while)], items(0), raises=StartRefused)
    assert "'apply' has no worker" in str(ran.error)
    assert "ulimit -n" in str(ran.error)
