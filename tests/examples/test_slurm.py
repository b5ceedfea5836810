"""The snippets of docs/slurm.md run as they stand, with stand-ins for SLURM's and Apptainer's commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec.checkpoint.history import read_history
from tests.process.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text()
SCRIPT, HISTORY, AGAIN, CONTAINER, STEPS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PIPELINE = """
import time
from pathlib import Path
from gpuexec import Pipeline, ProcessingStage
from tests.process.stages import items

class Parts(ProcessingStage):
    name = "parts"
    def process(self, task):
        return items(*range(32))

class Store(ProcessingStage):
    name = "store"
    is_sink_stage = True
    def __init__(self, output):
        self.output = Path(output)
    def num_workers(self):
        return 1
    def process(self, task):
        self.output.mkdir(exist_ok=True)
        (self.output / f"at-{task.data}").touch()
        while task.data >= 16 and (self.output.parent / "slow").exists():
            time.sleep(0.01)
        (self.output / f"part-{task.data}").touch()
        return task

def pipeline(output: str):
    return Pipeline("slurm", stages=[Parts(), Store(output)])
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=16 SLURM_NTASKS=16 exec "$@"
"""
APPTAINER = """#!/bin/bash
[ "$1 $2 $3" = "exec --nv --bind" ] || exit 9
shift 5
exec "$@"
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return the shared folder of a node, with the commands that a node of a cluster has."""
    commands = tmp_path / "bin"
    commands.mkdir()
    log = tmp_path / "log"
    for name, text in {
        "gpuexec": f'#!/bin/bash\nexec {sys.executable} -m gpuexec "$@"\n',
        "scontrol": f'#!/bin/bash\necho "scontrol $*" >> {log}\n',
        "sbatch": f'#!/bin/bash\necho "sbatch $*" >> {log}\n',
        "srun": SRUN,
        "apptainer": APPTAINER,
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    log.touch()
    return tmp_path


def start(node: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    path = f"{node / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-eu", "-c", script.replace("/shared", str(node))],
        cwd=node,
        env={**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(node: Path, script: str, **environment: str) -> tuple[int, str]:
    process = start(node, script, **environment)
    output, _ = process.communicate()
    return process.returncode, output


def stored(node: Path) -> set[int]:
    return {int(path.name.removeprefix("part-")) for path in (node / "curated").glob("part-*")}


def test_the_script_is_put_into_the_queue_again_before_its_time_is_up_and_resumes(node: Path):
    (node / "slow").touch()
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "4711"}
    script = start(node, SCRIPT, **slurm)
    try:
        wait_until((node / "curated" / "at-19").exists, running=script)
        script.send_signal(signal.SIGUSR1)
        output, _ = script.communicate()
    finally:
        if script.poll() is None:
            script.kill()
            script.communicate()
    assert script.returncode == 138, output
    assert (node / "log").read_text() == "scontrol requeue 4711\n"
    folder = node / "curate-checkpoint" / "shard-03-of-16"
    assert read_history(folder).sources.done == 1, "the first source was done, the second in flight"

    (node / "slow").unlink()
    status, output = finished(node, SCRIPT, **slurm)
    assert status == 0, output
    assert stored(node) == {3, 19}
    history = read_history(folder)
    assert (history.sources.done, [run.sources.done for run in history.runs]) == (2, [1, 1])
    assert (node / "log").read_text().count("requeue") == 1


def test_what_is_missing_is_submitted(node: Path):
    assert finished(node, SCRIPT, SLURM_ARRAY_TASK_ID="0", SLURM_JOB_ID="1")[0] == 0
    status, output = finished(node, HISTORY)
    assert status == 3, output
    assert "not begun: 1/16, 2/16" in output
    finished(node, AGAIN)
    numbers = ",".join(map(str, range(1, 16)))
    assert (node / "log").read_text() == f"sbatch --array={numbers} curate.sbatch\n"


def test_in_a_container(node: Path):
    status, output = finished(node, CONTAINER, SLURM_ARRAY_TASK_ID="4")
    assert status == 0, output
    assert stored(node) == {4, 20}


def test_in_steps(node: Path):
    status, output = finished(node, STEPS)
    assert status == 0, output
    assert stored(node) == {5, 21}
    assert "SLURM_PROCID=5, SLURM_STEP_NUM_TASKS=16" in output
