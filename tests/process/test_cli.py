"""The command as users type it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpuexec
from gpuexec import Pipeline
from gpuexec.config import ExecutorConfig
from tests.process.running import ROOT, run_command
from tests.process.stages import Apply, Range, announce_and_wait, double, kill_self
from tests.process.waiting import wait_until


def small(count: int = 5) -> Pipeline:
    return Pipeline("small", stages=[Range(count), Apply(double)])


def dying() -> Pipeline:
    return Pipeline("dying", stages=[Range(1), Apply(kill_self)])


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_run(executor):
    done = run_command("run", f"{__name__}:small", "--set", "count=7", "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert "7 tasks came out of the last stage" in done.stderr
    assert "done in" in done.stderr
    assert done.stdout == "", "stdout is the pipeline's own"


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "0"}],
)
def test_terminals_with_few_characters_or_no_size(environment):
    done = run_command("--help", **environment)
    assert done.returncode == 0, done.stderr
    assert "Run stage pipelines" in done.stdout
    done = run_command("run", f"{__name__}:small", **environment)
    assert "5 tasks came out of the last stage" in done.stderr


def test_run_of_a_broken_pipeline_shows_the_table_and_the_error():
    done = run_command("run", f"{__name__}:dying")
    assert done.returncode == 1
    assert "failed in" in done.stderr
    assert "error: worker 'apply-2' of stage 'apply' died during process: killed by SIGKILL" in done.stderr
    assert "| about to die" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", f"{__name__}:smal"), 1, "error: tests.process.test_cli has no 'smal'; did you mean 'small'?"),
        (("run", f"{__name__}:small", "-o", "queue_task=3"), 1, "did you mean 'queue_tasks'?"),
        (("run", f"{__name__}:small", "--executor", "dask"), 2, "'dask' is not one of"),
        (("run", f"{__name__}:small", "--executor", "ray"), 1, "pip install 'gpuexec[ray]'"),
        (("run",), 2, "Missing argument"),
        (("plan", f"{__name__}:small", "--node", "nowhere.json"), 1, "error: --node nowhere.json: No such file"),
        (("plan", f"{__name__}:small", "--node", "README.md"), 1, "is not JSON"),
        (("runn",), 2, "No such command"),
        (("gpus", "--yaml"), 2, "No such option"),
        (("gpus", "--full"), 2, "it requires --json"),
    ],
)
def test_wrong_use_is_explained_without_a_traceback(arguments, code, message):
    done = run_command(*arguments)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_plan_starts_nothing_and_says_why():
    done = run_command("plan", f"{__name__}:small")
    assert done.returncode == 0, done.stderr
    assert "usable CPUs" in done.stdout
    assert "grows" in done.stdout


def test_a_plan_as_json_names_every_worker():
    document = json.loads(run_command("plan", f"{__name__}:small", "--json", "-o", "cpus=1").stdout)
    (phase,) = document["phases"]
    assert [[stage["name"], len(stage["workers"])] for stage in phase["stages"]] == [["range", 1], ["apply", 4]]
    assert phase["stages"][0]["workers"][0]["worker_id"] == "range-0"


def test_the_full_json_of_a_node_can_be_planned_for(tmp_path: Path):
    done = run_command("gpus", "--json", "--full")
    assert done.returncode == 0, done.stderr
    assert {"host", "gpus", "links"} <= set(json.loads(done.stdout))
    path = tmp_path / "node.json"
    path.write_text(done.stdout)
    planned = run_command("plan", f"{__name__}:small", "--node", path)
    assert planned.returncode == 0, planned.stderr
    assert "usable CPUs" in planned.stdout


def test_version_and_help():
    assert run_command("--version").stdout.strip() == f"gpuexec {gpuexec.__version__}"
    done = run_command("--help")
    assert all(name in done.stdout for name in ("gpus", "plan", "run", "history", "replay"))


LONG_RUN = """
from gpuexec import LocalExecutor, Pipeline
from tests.process import test_cli
from tests.process.stages import items
Pipeline("p", stages=[test_cli.Slow()]).run(LocalExecutor(), initial_tasks=items(*range(40)))
"""


class Slow(Apply):
    """Long enough over its tasks for the display to be drawn."""

    def __init__(self) -> None:
        super().__init__(spin, "slow")


def spin(value: int) -> int:
    return sum(i % 7 for i in range(400_000)) + value


def on_a_terminal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run a Python interpreter; return its status, and what it writes to a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(), seen.decode()


@pytest.mark.parametrize(("no_color", "is_red"), [("", True), ("1", False)])
def test_errors_are_red_unless_the_user_wants_no_color(tmp_path: Path, no_color: str, is_red: bool):
    (tmp_path / "broken.py").write_text("def pipeline(:\n")
    for target, said in ((tmp_path / "broken.py", "SyntaxError"), (tmp_path / "absent.py", "there is no file")):
        code, text = on_a_terminal("-m", "gpuexec", "run", f"{target}:pipeline", NO_COLOR=no_color)
        assert code == 1
        assert said in text
        assert ("\x1b[31m" in text) is is_red


def test_the_live_display_on_a_terminal():
    code, text = on_a_terminal("-c", LONG_RUN)
    assert code == 0
    for said in ("running for", "in flight", "slow", "/s"):
        assert said in text
    assert text.endswith("A\x1b[J"), "the table is cleared at the end"


def test_ctrl_c_ends_the_command_with_130(tmp_path: Path):
    pid_file = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuexec", "run", f"{__name__}:stuck", "--set", f"path={pid_file}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), running=process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in said
    assert "interrupted after" in said, "what was done until then"
    assert "Traceback" not in said


class Stuck(Apply):
    def __init__(self, path: str) -> None:
        super().__init__(None, "stuck")
        self.path = path

    def process(self, task):
        announce_and_wait(self.path)


def stuck(path: str) -> Pipeline:
    return Pipeline("stuck", stages=[Stuck(path)])


def failing_at_some(count: int = 50) -> Pipeline:
    return Pipeline("some", stages=[Range(count), Apply(fail_at_three_and_seven)])


def fail_at_three_and_seven(value: int) -> int:
    if value in (3, 7):
        raise KeyError(value)
    return value


def test_tasks_in_quarantine_are_told_and_have_a_status_of_their_own():
    done = run_command("run", f"{__name__}:failing_at_some", "-o", "on_task_failure=quarantine", "-o", "capsules=no")
    assert done.returncode == 3, done.stderr
    assert "48 tasks came out of the last stage" in done.stderr
    assert "2 quarantined: 2 of stage 'apply'" in done.stderr


def test_the_options_are_listed():
    done = run_command("options")
    assert done.returncode == 0
    for option in dataclasses.fields(ExecutorConfig):
        assert f"{option.name}: " in done.stdout
    assert run_command("options", "queue_byte").stderr.strip().endswith("did you mean 'queue_bytes'?")


def test_the_options_are_whole_at_80_columns():
    shown = run_command("options", COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    for option in dataclasses.fields(ExecutorConfig):
        assert " ".join(option.metadata["about"].split()) in " ".join(shown.split())


def test_the_options_are_listed_as_json():
    facts = json.loads(run_command("options", "--json").stdout)
    assert [option["name"] for option in facts] == [option.name for option in dataclasses.fields(ExecutorConfig)]
    (fusion,) = json.loads(run_command("options", "fusion", "--json").stdout)
    assert fusion.pop("meaning")
    assert fusion == {
        "name": "fusion",
        "type": "auto or off",
        "default": "auto",
        "choices": ["auto", "off"],
        "per_stage": True,
        "inline": False,
    }
