"""The command as users type it."""

from __future__ import annotations

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
from tests.process.stages import Apply, Range, double, kill_self

COMMAND = [sys.executable, "-m", "gpuexec"]
ROOT = Path(__file__).parents[2]


def small(count: int = 5) -> Pipeline:
    return Pipeline("small", stages=[Range(count), Apply(double)])


def dying() -> Pipeline:
    return Pipeline("dying", stages=[Range(1), Apply(kill_self)])


def gpuexec_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        timeout=60,
    )


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_run(executor):
    done = gpuexec_command("run", f"{__name__}:small", "--set", "count=7", "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert "7 tasks came out of the last stage" in done.stderr
    assert ("done in" in done.stderr) == (executor == "local")
    assert done.stdout == "", "stdout is the pipeline's own"


def test_run_of_a_broken_pipeline_shows_the_table_and_the_error():
    done = gpuexec_command("run", f"{__name__}:dying")
    assert done.returncode == 1
    assert "failed in" in done.stderr
    assert "error: worker 'apply-0' of stage 'apply' died during process: killed by SIGKILL" in done.stderr
    assert "| about to die" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", f"{__name__}:smal"), 1, "error: tests.process.test_cli has no 'smal'; did you mean 'small'?"),
        (("run", f"{__name__}:small", "-o", "queue_task=3"), 1, "did you mean 'queue_tasks'?"),
        (("run", f"{__name__}:small", "--executor", "ray"), 2, "'ray' is not one of"),
        (("run",), 2, "Missing argument"),
        (("plan", f"{__name__}:small", "--node", "nowhere.json"), 1, "error: --node nowhere.json: No such file"),
        (("plan", f"{__name__}:small", "--node", "README.md"), 1, "is not JSON"),
        (("runn",), 2, "No such command"),
        (("gpus", "--yaml"), 2, "No such option"),
        (("gpus", "--full"), 2, "it requires --json"),
    ],
)
def test_wrong_use_is_explained_without_a_traceback(arguments, code, message):
    done = gpuexec_command(*arguments)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_plan_starts_nothing_and_says_why():
    done = gpuexec_command("plan", f"{__name__}:small")
    assert done.returncode == 0, done.stderr
    assert "usable CPUs" in done.stdout
    assert "grows" in done.stdout


def test_the_full_json_of_a_node_can_be_planned_for(tmp_path: Path):
    done = gpuexec_command("gpus", "--json", "--full")
    assert done.returncode == 0, done.stderr
    assert {"host", "gpus", "links"} <= set(json.loads(done.stdout))
    path = tmp_path / "node.json"
    path.write_text(done.stdout)
    planned = gpuexec_command("plan", f"{__name__}:small", "--node", str(path))
    assert planned.returncode == 0, planned.stderr
    assert "usable CPUs" in planned.stdout


def test_version_and_help():
    assert gpuexec_command("--version").stdout.strip() == f"gpuexec {gpuexec.__version__}"
    done = gpuexec_command("--help")
    assert all(name in done.stdout for name in ("gpus", "plan", "run", "history", "replay"))


LONG_RUN = """
from gpuexec import LocalExecutor, Pipeline
from tests.process import test_cli
Pipeline("p", stages=[test_cli.Slow()]).run(LocalExecutor(), initial_tasks=test_cli.items(*range(40)))
"""


class Slow(Apply):
    """Takes long enough for the display to be drawn."""

    def __init__(self) -> None:
        super().__init__(spin, "slow")


def spin(value: int) -> int:
    return sum(i % 7 for i in range(400_000)) + value


def items(*values):
    from tests.process import stages

    return stages.items(*values)


def test_the_live_display_on_a_terminal():
    terminal, process_side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN],
        stderr=process_side,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(process_side)
    output = b""
    try:
        while chunk := os.read(terminal, 65536):
            output += chunk
    except OSError:  # the other side is closed
        pass
    os.close(terminal)
    assert process.wait(30) == 0
    text = output.decode()
    for part in ("running for", "in flight", "slow", "/s"):
        assert part in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[1A\x1b[2K" in text, "the table is cleared at the end"


def test_ctrl_c_ends_the_command_with_130(tmp_path: Path):
    pid_file = tmp_path / "pid"
    process = subprocess.Popen(
        [*COMMAND, "run", f"{__name__}:stuck", "--set", f"path={pid_file}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (pid_file.exists() and pid_file.read_text()):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "failed in" in stderr, "what was done until then"
    assert "Traceback" not in stderr


class Stuck(Apply):
    def __init__(self, path: str) -> None:
        super().__init__(None, "stuck")
        self.path = path

    def process(self, task):
        from tests.process import stages

        stages.announce_and_wait(self.path)


def stuck(path: str) -> Pipeline:
    return Pipeline("stuck", stages=[Stuck(path)])
