"""One trial: what becomes of a point, in this process; and the process of a trial, which leaves nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpuexec import ConfigurationError, SweepImpossible
from gpuexec.bench.child import ChildProcess, kill_descendants, new_id
from gpuexec.bench.model import Goal, TrialStatus
from gpuexec.bench.request import Request
from gpuexec.bench.target import describe, target_of
from gpuexec.bench.trial import Spec, run
from tests.nvml_sim import nodes
from tests.process.stages import swept
from tests.process.waiting import wait_until

MODULE = swept.__name__


def spec(folder: Path, target: str = "make", budget_s: float | None = None, **settings: Any) -> Spec:
    (folder / "scratch").mkdir(exist_ok=True)
    return Spec(
        task="run",
        folder=str(folder),
        target=f"{MODULE}:{target}",
        object=None,
        arguments={"count": "4"} if target == "make" else {},
        options={"start_method": "spawn", "max_attempts": 1},
        trial={"number": 0, "point_id": "p01", "repeat": 1, "rung": 0, "budget_s": budget_s, "again": False},
        settings={name.replace("__", "."): value for name, value in settings.items()},
        scratch=str(folder / "scratch"),
    )


def test_a_trial_has_figures_and_a_run_folder(tmp_path):
    result = run(spec(tmp_path, set__count=7, option__log_level="INFO"))
    assert (result.status, result.items) == (TrialStatus.OK, 7)
    assert result.throughput > 0
    assert result.first_result_s < result.seconds
    (stage,) = result.stages
    assert (stage.name, stage.workers) == ("work", 1.0)
    assert stage.service_p50_s >= 0.007
    assert (tmp_path / result.run_folder / "report.html").exists()
    assert not Path(os.environ["XDG_STATE_HOME"], "gpuexec", "bench").exists()


@pytest.mark.parametrize(
    ("settings", "status", "reason"),
    [
        ({"set__plant": "big"}, TrialStatus.OUT_OF_MEMORY, "stage 'work': OutOfMemoryError: CUDA out of memory"),
        ({"set__plant": "deadly"}, TrialStatus.CRASHED, "stage 'work': killed by SIGKILL"),
        ({"set__plant": "wrong"}, TrialStatus.FAILED, "stage 'work': LookupError: no such file"),
        ({"set__plant": "stuck", "work__batch_timeout_s": 0.1}, TrialStatus.TIMED_OUT, "batch_timeout_s"),
        ({"work__num_workers": 0}, TrialStatus.REFUSED, "num_workers"),
        ({"work__batch_size": 0}, TrialStatus.REFUSED, "batch_size must be a whole number >= 1"),
        ({"work__gpus": 1}, TrialStatus.REFUSED, "asks for gpus=1"),
    ],
)
def test_a_point_that_does_not_go_through_says_why(tmp_path, settings, status, reason):
    result = run(spec(tmp_path, **settings))
    assert result.status is status, result.reason
    assert reason in result.reason
    assert result.throughput is None


def test_a_target_that_raises(tmp_path):
    result = run(spec(tmp_path, "broken"))
    assert (result.status, result.reason) == (TrialStatus.FAILED, "LookupError: inside the target")


def test_a_run_is_cut_short_after_its_first_results(tmp_path):
    result = run(spec(tmp_path, "make_stream", budget_s=0.3))
    assert result.status is TrialStatus.OK
    assert 2 <= result.items < 2000
    assert result.throughput <= 200, "a batch of two takes 10 ms, and more on a busy machine"
    assert result.latency_p99_s is not None


def test_another_tenant_marks_a_trial(tmp_path, nvml_node):
    nvml_node(nodes.node(nodes.metered(0)))
    result = run(spec(tmp_path, work__gpus=1, set__plant="visited"))
    assert result.status is TrialStatus.OK
    assert [mark.partition(":")[0] for mark in result.marks] == ["another tenant"]
    assert "pid 1" in result.marks[0]
    result = run(spec(tmp_path, work__gpus=1))
    assert "pid 1" in result.marks[0], "it was there before"
    assert run(spec(tmp_path, work__gpus=1)).marks == ()


def test_a_scratch_folder_stands_for_its_name(tmp_path):
    run(spec(tmp_path, set__note="{scratch}/note"))
    assert (tmp_path / "scratch" / "note").read_text() == "fine\n"


# ---- its process -----------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("grace_s", [0.0, 0.1])
def test_a_trial_that_hangs_is_ended_with_all_that_it_has_started(tmp_path, grace_s):
    note = tmp_path / "note"
    told = spec(tmp_path, set__plant="waiting", set__note=str(note))
    child = ChildProcess(told, tmp_path / "work", new_id(), None)
    wait_until(lambda: note.exists() and note.read_text().isdigit() and child.wait(0) is False)
    worker, own = int(note.read_text()), int(note.with_suffix(".child").read_text())
    assert alive(worker)
    assert alive(own)
    child.end(grace_s)
    child.end()
    wait_until(lambda: not alive(worker))
    wait_until(lambda: not alive(own))  # although it had a session of its own
    assert "killed by SIG" in child.how_it_ended()


def test_what_a_killed_sweep_has_left_is_found_by_its_id(tmp_path):
    sweep_id = new_id()
    others = psutil.Popen(["sleep", "1000"], env={**os.environ, "GPUEXEC_BENCH_SWEEP": new_id()})
    own = psutil.Popen(["sleep", "1000"], env={**os.environ, "GPUEXEC_BENCH_SWEEP": sweep_id})
    try:
        wait_until(lambda: own.pid in kill_descendants(sweep_id))
        assert own.wait() == -9
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


# ---- what a target is --------------------------------------------------------------------------------------


def asked(**changes: Any) -> Request:
    return Request(**{"target": f"{MODULE}:make", "directory": None, **changes})


def test_a_description_has_points_and_what_the_planner_says():
    request = asked(vary={"work.gpus": ("0", "9"), "set.count": ("4", "8")}, arguments={"plant": "fine"})
    found = describe(request, target_of(request.target), plans=True)
    assert found["today"] == {"work.gpus": 0.0, "set.count": 4}
    assert found["varied"] == {"work.gpus": [0, 9], "set.count": [4, 8]}
    assert [point["settings"] for point in found["points"]] == [
        {},
        {"work.gpus": 0, "set.count": 8},
        {"work.gpus": 9, "set.count": 4},
        {"work.gpus": 9, "set.count": 8},
    ]
    plans = found["plans"]
    assert plans["p00"] == {"phases": 1, "workers": {"work": 1}}
    assert "asks for gpus=9" in plans["p02"]["refused"]
    assert found["stages"] == ["work"]
    assert found["versions"]["gpuexec"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"vary": {"wrok.gpus": ("1",)}}, ConfigurationError, "did you mean 'work'"),
        ({"vary": {"option.queue_tasks": ("0",)}}, ConfigurationError, "must be a finite number >= 1"),
        ({"vary": {"work.gpus": ("many",)}}, ConfigurationError, "must be a number"),
        ({"goal": Goal.JOULES}, ConfigurationError, "no stage asks for a GPU"),
        ({"target": f"{MODULE}:broken"}, SweepImpossible, f"{MODULE}:broken could not be loaded:\n"),
        ({"target": f"{MODULE}:broken"}, SweepImpossible, "LookupError: inside the target"),
        ({"target": f"{MODULE}:leave_at_once"}, SweepImpossible, "exited with code 9"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(changes, error, message):
    request = asked(**changes)
    with pytest.raises(error) as caught:
        describe(request, target_of(request.target))
    assert message in str(caught.value)


def test_a_target_that_starts_a_sweep_when_it_is_imported(tmp_path):
    script = tmp_path / "sweeps_itself.py"
    script.write_text("import gpuexec\ngpuexec.bench('sweeps_itself:make', show_progress=False)\n")
    request = asked(target=f"{script}:make")
    with pytest.raises(ConfigurationError, match="if __name__ == '__main__'"):
        describe(request, target_of(request.target))


def test_targets():
    assert target_of("a:b").name == "a:b"
    assert target_of(swept.make).name == f"{MODULE}:make"
    pickled = target_of(swept.pipeline)
    assert pickled.name == "Pipeline 'swept' (work)"
    assert pickled.pickled

    def inner() -> None: ...

    for wrong in (inner, lambda: None, swept.Work.setup, 3, swept.Work):
        with pytest.raises(ConfigurationError):
            target_of(wrong)


def test_a_function_of_a_script_is_found_by_its_file(monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("")
    main = sys.modules["__main__"]

    def make() -> None: ...

    make.__module__, make.__qualname__ = "__main__", "make"
    monkeypatch.setattr(main, "make", make, raising=False)
    monkeypatch.setattr(main, "__file__", str(script), raising=False)
    assert target_of(make).name == f"{script}:make"
    monkeypatch.setattr(main, "__file__", str(tmp_path / "<stdin>"))
    with pytest.raises(ConfigurationError, match="interactive session"):
        target_of(make)
