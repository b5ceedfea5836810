"""A sweep as users run it: killed and resumed, interrupted, from Python, and with points that go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import gpuexec
from gpuexec import ConfigurationError, SweepImpossible
from gpuexec.bench.journal import NAME, read_journal
from gpuexec.bench.model import TrialStatus
from tests.nvml_sim import nodes
from tests.process.running import ROOT, run_command
from tests.process.stages import swept
from tests.process.waiting import wait_until

MODULE = swept.__name__
QUICK = {"repeat": 1, "warmup": 0, "options": {"start_method": "spawn", "max_attempts": 1}, "show_progress": False}


def begin(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpuexec", "bench", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "100"},
    )


def descendants(sweep_id: str) -> list[int]:
    wanted = f"GPUEXEC_BENCH_SWEEP={sweep_id}"
    found = []
    for process in psutil.process_iter():
        try:
            if f"{process.environ().get('GPUEXEC_BENCH_SWEEP')}" == wanted.partition("=")[2]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def lines_of(folder: Path) -> int:
    journal = folder / NAME
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.exhaustive
def test_a_sweep_that_is_killed_twice_accounts_for_every_point(tmp_path, nvml_node):
    nvml_node(nodes.node(nodes.metered(0), nodes.metered(1)))
    out = tmp_path / "out"
    asked = [
        f"{MODULE}:make",
        *("--vary", "set.plant=fine,big,deadly,wrong,stuck,visited", "--set", "gpus=1"),
        *("-o", "start_method=spawn", "-o", "max_attempts=1", "-o", "work.batch_timeout_s=3"),
        *("--repeat", 1, "--warmup", 0, "--seed", 3, "--out", out),
    ]
    for number, more in enumerate(([], ["--resume"])):
        with begin(*asked, *more) as killed:
            wait_until(lambda n=number: lines_of(out) >= 2 + 2 * n, running=killed)
            killed.kill()
        header, _ = read_journal(out)
        wait_until(lambda sweep_id=header["sweep_id"]: not descendants(sweep_id))
    done = run_command("bench", *asked, "--resume")
    assert done.returncode == 0, done.stderr
    _, results = read_journal(out)
    last = {each.trial.point_id: each for each in results}
    plants = {point["id"]: point["settings"].get("set.plant", "fine") for point in header["points"]}
    assert {plants[point]: each.status for point, each in last.items()} == {
        "fine": TrialStatus.OK,
        "big": TrialStatus.OUT_OF_MEMORY,
        "deadly": TrialStatus.CRASHED,
        "wrong": TrialStatus.FAILED,
        "stuck": TrialStatus.TIMED_OUT,
        "visited": TrialStatus.OK,
    }
    assert [each.trial.number for each in results] == list(range(len(results)))
    marked = [each for each in results if plants[each.trial.point_id] == "visited"]
    assert [each.trial.again for each in marked] == [False, True]
    assert "another tenant" in marked[0].marks[0]
    document = json.loads((out / "bench.json").read_text())
    assert document["complete"]
    assert "out of GPU memory" in done.stdout
    assert not descendants(header["sweep_id"])

    other = run_command("bench", *asked[:1], "--vary", "set.plant=fine,big", *asked[3:], "--resume")
    assert other.returncode == 1
    assert "--vary set.plant was fine,big,deadly,wrong,stuck,visited and is fine,big" in other.stderr


def test_ctrl_c_keeps_what_is_done_and_leaves_nothing(tmp_path):
    out, note = tmp_path / "out", tmp_path / "note"
    asked = (f"{MODULE}:make", "--vary", "set.plant=waiting", "--set", f"note={note}", "-o", "start_method=spawn")
    with begin(*asked, "--repeat", 1, "--warmup", 0, "--out", out) as sweep:
        wait_until(lambda: note.exists() and note.with_suffix(".child").exists(), running=sweep)
        sweep_id = read_journal(out)[0]["sweep_id"]
        sweep.send_signal(signal.SIGINT)
        _, complaints = sweep.communicate()
    assert sweep.returncode == 130, complaints
    assert "gpuexec bench --resume" in complaints
    assert not descendants(sweep_id)
    assert not json.loads((out / "bench.json").read_text())["complete"]
    assert not (out / "work").exists()


def test_from_python_with_a_pipeline(tmp_path):
    result = gpuexec.bench(swept.make(), {"work.batch_size": [1, 2]}, out=tmp_path / "out", **QUICK)
    assert [point.id for point in result.sweep.points] == ["p00", "p01"]
    assert {each.status for each in result.sweep.results} == {TrialStatus.OK}
    assert result.sweep.complete
    assert result.analysis.best is not None
    assert "batch_size" in str(result)
    folder = Path(result.folder)
    assert all((folder / each.run_folder / "report.html").exists() for each in result.sweep.results)
    assert result.to_dict() == json.loads((folder / "bench.json").read_text())

    again = gpuexec.bench(swept.make(), {"work.batch_size": [1, 2]}, out=folder, resume=True, **QUICK)
    assert again.sweep.results == result.sweep.results
    with pytest.raises(SweepImpossible, match="--resume"):
        gpuexec.bench(swept.make(), {"work.batch_size": [1, 2]}, out=folder, **QUICK)


def test_a_trial_that_takes_too_long_is_killed_and_told(tmp_path):
    result = gpuexec.bench(swept.make, arguments={"plant": "stuck"}, limit_s=4, out=tmp_path / "out", **QUICK)
    (only,) = result.sweep.results
    assert only.status is TrialStatus.TIMED_OUT
    assert "the limit of 4 s" in only.reason
    assert list((tmp_path / "out" / "output").iterdir())
    assert result.analysis.best is None


def test_what_cannot_be_varied_is_refused_and_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="did you mean 'batch_size'"):
        gpuexec.bench(swept.make, {"work.batchsize": [1]}, out=tmp_path / "out", **QUICK)
    with pytest.raises(ConfigurationError, match="goal must be one of throughput, joules, latency"):
        gpuexec.bench(swept.make, goal="speed")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_points_and_runs_nothing(tmp_path):
    arguments: list[Any] = [f"{MODULE}:make", "--vary", "work.gpus=0,9", "--out", tmp_path / "out", "--dry-run"]
    done = run_command("bench", *arguments, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "2 points, 12 trials (1 warm-up and 5 repeats of each)" in " ".join(done.stdout.split())
    assert "p01 gpus 9: refused: stage 'work' asks for gpus=9" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_is_not_set_today():
    nothing_varied = run_command("bench", f"{MODULE}:make", "--dry-run", COLUMNS="200")
    assert "p00 today's settings: at most" in nothing_varied.stdout
    done = run_command("bench", f"{MODULE}:make", "--vary", "work.batch_timeout_s=2,3", "--dry-run", COLUMNS="200")
    assert "work.batch_timeout_s: 2, 3; today not set" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "it is needed, unless --resume"),
        (["a:b", "--vary", "gpus=1"], 1, "STAGE.key"),
        (["a:b", "--limit", "soon"], 1, "must be a time, such as 90s"),
        (["a:b", "-o", "checkpoint=x"], 1, "skip what the first one has done"),
        (["--resume", "--out", "nowhere"], 1, "no sweep to go on with"),
        (["--resume", "--vary", "a.b=1"], 2, "give TARGET too"),
    ],
)
def test_wrong_use_is_explained(arguments, code, message):
    done = run_command("bench", *arguments)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_the_function_is_the_package_whatever_was_imported_first():
    code = "import gpuexec; {}; assert callable(gpuexec.bench); assert gpuexec.bench.__name__ == 'gpuexec.bench'"
    for first in ("gpuexec.bench", "import gpuexec.bench.model"):
        subprocess.run([sys.executable, "-c", code.format(first)], cwd=ROOT, check=True)
