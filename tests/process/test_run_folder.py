"""The folder that every run leaves, whatever becomes of the run and of the disk."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuexec import InlineExecutor, LocalExecutor, Pipeline
from gpuexec.report import run_folder
from gpuexec.report.store import Outcome, find_run, list_runs
from gpuexec.units import MIB
from tests.nvml_sim import nodes
from tests.process.running import ROOT, logged, run_local
from tests.process.stages import Apply, double, fail, items
from tests.process.stages.folders import Fans, Says, remove
from tests.process.stages.gpus import OnGpu
from tests.process.waiting import wait_until
from tests.unit.report.trace_checks import check_trace, read_trace
from tests.unit.report.trace_processor import read_by_perfetto


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """A state folder of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / run_folder.LOG).read_text().splitlines()]


def test_a_run_leaves_a_folder_with_report_trace_and_log(state):
    ran = run_local([Apply(double), Says().with_(fuse=False)], items(1, 2, 3))
    folder = Path(ran.report.folder)
    assert folder.parent == state / "gpuexec" / "runs"
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
    assert not (folder / run_folder.LOCK).exists()
    reader = find_run()
    report = reader.report()
    assert reader.path == folder
    assert reader.outcome(report) is Outcome.OK
    assert report["run_id"] == ran.report.facts.run_id
    assert [stage["tasks_out"] for stage in report["stages"]] == [3, 3]
    texts = {(line["kind"], line["stage"], line["text"]) for line in log_of(folder)}
    assert {("print", "says", "printed 2"), ("log", "says", "logged 6")} <= texts


def test_its_trace_has_every_batch_and_follows_tasks(state):
    ran = run_local([Apply(double).with_(fuse=False), Fans(), Apply(double, "last")], items(1, 2), fusion="off")
    path = Path(ran.report.folder, run_folder.TRACE)
    found = check_trace(read_trace(path))
    sums = {
        name: sum(e["args"]["tasks"] for e in found if e["ph"] == "X" and e["name"] == name)
        for name in ("apply", "fans", "last")
    }
    assert sums == {"apply": 2, "fans": 2, "last": 4}
    with read_by_perfetto(path.read_bytes()) as session:
        assert session.errors() == []
        names = {row["name"] for row in session.rows("select name from process where name is not null")}
        workers = {worker.worker_id for worker in ran.report.workers}
        assert names == {"driver", "stages: tasks waiting", *workers}
        assert {"setup", "teardown", "run"} <= {row["name"] for row in session.rows("select name from slice")}
        of_slice = "join thread_track {0}t on {0}t.id = {0}.track_id join thread {0}h on {0}h.utid = {0}t.utid "
        of_slice += "join process {0}p on {0}p.upid = {0}h.upid"
        way = session.rows(
            "select madep.name as made, usedp.name as used from flow "
            f"join slice made on made.id = flow.slice_out {of_slice.format('made')} "
            f"join slice used on used.id = flow.slice_in {of_slice.format('used')}"
        )
        stages = {tuple(worker.rpartition("-")[0] for worker in (row["made"], row["used"])) for row in way}
        assert stages == {("apply", "fans"), ("fans", "last")}


def test_a_fused_stage_has_a_thread_of_its_own_in_the_trace():
    ran = run_local([Apply(double), Apply(double, "second")], items(*range(20)))
    found = check_trace(read_trace(Path(ran.report.folder, run_folder.TRACE)))
    threads = {e["name"]: (e["pid"], e["tid"]) for e in found if e["ph"] == "X" and e["name"] in ("apply", "second")}
    assert threads["apply"][0] == threads["second"][0]
    assert threads["apply"][1] != threads["second"][1]


def test_a_failed_run_leaves_one_too(tmp_path):
    ran = run_local([Apply(fail, "fails")], items(1), raises=ConnectionError)
    reader = find_run(Path(ran.report.folder))
    report = reader.report()
    assert reader.outcome(report) is Outcome.FAILED
    assert "refused" in report["error"]
    (failure,) = [line for line in log_of(reader.path) if line["kind"] == "failure"]
    assert (failure["stage"], failure["action"]) == ("fails", "raise")
    found = check_trace(read_trace(reader.trace))
    assert any(e["ph"] == "i" and "refused" in str(e["args"]) for e in found)


def test_a_run_in_this_process_leaves_one_too():
    executor = InlineExecutor(show_progress=False)
    Pipeline("here", stages=[Apply(double), Fans()]).run(executor, initial_tasks=items(1, 2))
    reader = find_run(executor.last_report.facts.run_id)
    assert reader.report()["executor"] == "inline"
    found = check_trace(read_trace(reader.trace))
    assert {"apply", "fans"} <= {e["name"] for e in found if e["ph"] == "X"}
    assert "-here-" in reader.path.name


def test_a_killed_run_leaves_one_that_is_whole(tmp_path, state):
    flag = tmp_path / "flag"
    program = [sys.executable, "-m", "tests.process.stages.folders", str(state), str(flag)]
    process = subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(flag.exists)
        (reader,) = list_runs()
        assert reader.is_live
        wait_until(lambda: reader.report()["stages"][0]["tasks_in"])
        assert reader.outcome(reader.report()) is Outcome.RUNNING
        assert run_folder.prune(reader.path.parent, keep=0, keep_bytes=0) == []
    finally:
        process.kill()
        process.wait()
    assert not reader.is_live
    report = reader.report()
    assert reader.outcome(report) is Outcome.KILLED
    assert reader.summary().outcome == "killed"
    assert report["stages"][0]["tasks_in"] >= 1
    assert any(e["name"] == "endless" for e in check_trace(read_trace(reader.trace)))
    assert "at 0" in {line["text"] for line in log_of(reader.path)}
    with read_by_perfetto(reader.trace.read_bytes()) as session:
        assert session.errors() == []


def test_the_trace_of_a_run_on_gpus_has_their_busy_time(nvml_node):
    nvml_node(nodes.unequal())
    ran = run_local([OnGpu(workers=2, gpus=1)], items(1, 2, 3))
    found = check_trace(read_trace(Path(ran.report.folder, run_folder.TRACE)))
    named = {e["args"]["name"]: e["pid"] for e in found if e["ph"] == "M" and e["name"] == "process_name"}
    gpus = {name: pid for name, pid in named.items() if name.startswith("GPU ")}
    assert len(gpus) == 2
    for pid in gpus.values():
        parts = {e["name"] for e in found if e["ph"] == "X" and e["pid"] == pid}
        assert {"setting_up", "busy"} <= parts or "busy" not in parts


def test_none_writes_nothing(state):
    ran = run_local([Apply(double)], items(1), run_dir=None)
    assert ran.report.folder is None
    assert not (state / "gpuexec" / "runs").exists()


def test_a_folder_can_be_named(tmp_path):
    parent = tmp_path / "mine" / "runs"
    ran = run_local([Apply(double)], items(1), run_dir=parent)
    assert Path(ran.report.folder).parent == parent
    assert find_run(ran.report.facts.run_id, run_dir=str(parent)).path == Path(ran.report.folder)


@pytest.mark.parametrize(
    "name",
    [
        "</script><script>alert(1)</script>",
        "../../etc/passwd",
        "two\nlines",
        "🙂",
        "x" * 300,
        "",
        ".",
        "\udc80",
        Path("a"),
    ],
)
def test_any_name_of_a_pipeline_makes_a_folder(name, state):
    executor = LocalExecutor(show_progress=False)
    Pipeline(name, stages=[Apply(double, str(name) or "apply")]).run(executor, initial_tasks=items(1))
    folder = Path(executor.last_report.folder)
    assert folder.parent == state / "gpuexec" / "runs"
    assert len(folder.name) < 100
    assert folder.name.isascii()
    report = find_run().report()
    assert report["pipeline"] == str(name) or not name
    with read_by_perfetto((folder / run_folder.TRACE).read_bytes()) as session:
        assert session.errors() == []


def test_runs_of_one_name_at_one_moment_have_folders_of_their_own():
    executors = [LocalExecutor(show_progress=False) for _ in range(3)]

    def run(executor: LocalExecutor) -> None:
        Pipeline("same", stages=[Apply(double)]).run(executor, initial_tasks=items(1, 2))

    threads = [threading.Thread(target=run, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = {executor.last_report.folder for executor in executors}
    assert len(folders) == len(list_runs()) == 3
    assert all(reader.summary().outcome == "ok" for reader in list_runs())


# ---- where nothing can be written ------------------------------------------------------------------------


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def warnings_about_folders(messages: list[str]) -> list[str]:
    return [message for message in messages if "run_dir=None" in message]


def test_on_a_full_disk_the_run_goes_on_with_one_warning():
    texts = items(*["x" * 1000] * 1000)  # printed and logged: 2 MB
    with logged() as messages, files_limited_to(MIB):
        ran = run_local([Says()], texts)
    assert len(ran.tasks) == 1000
    (warning,) = warnings_about_folders(messages)
    assert "is not complete" in warning
    assert warning in ran.report.notes
    check_trace(read_trace(Path(ran.report.folder, run_folder.TRACE)))


@pytest.mark.parametrize("broken", ["a file", "read-only"])
def test_without_a_place_for_folders_the_run_goes_on_with_one_warning(broken, tmp_path, monkeypatch):
    if broken == "a file":
        home = tmp_path / "file"
        home.touch()
    else:
        home = Path("/proc/self")  # nobody can make a folder there, not even root
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    with logged() as messages:
        ran = run_local([Apply(double)], items(1, 2))
    assert ran.data == [2, 4]
    assert ran.report.folder is None
    (warning,) = warnings_about_folders(messages)
    assert "there is no folder for this run" in warning


def test_without_a_home_the_run_goes_on_with_one_warning(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", _no_home)  # root has one in the user database
    with logged() as messages:
        ran = run_local([Apply(double)], items(1, 2))
    assert ran.data == [2, 4]
    (warning,) = warnings_about_folders(messages)
    assert "home" in warning


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_folder_that_is_removed_during_the_run_does_not_end_it(state):
    runs = state / "gpuexec" / "runs"
    with logged() as messages:
        ran = run_local([Apply(remove)], items(*[str(runs)] * 50))
    assert len(ran.tasks) == 50
    assert len(warnings_about_folders(messages)) <= 1
