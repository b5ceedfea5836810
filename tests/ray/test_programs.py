"""Whole programs: scripts with classes of their own, a Ray that is started for the run, Ctrl-C, the page's snippet."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.running import ROOT, run_command, run_python

SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/ray.md").read_text(), re.DOTALL | re.MULTILINE)

HANGS = """
import sys, time
from pathlib import Path
from gpuexec import RayExecutor, ProcessingStage

class Hangs(ProcessingStage):
    name = "hangs"
    def process(self, task):
        Path(self.path).touch()
        while True:
            time.sleep(0.05)

if __name__ == "__main__":
    stage = Hangs()
    stage.path = sys.argv[1]
    RayExecutor(address="local", show_progress=False, run_dir=None, cpus=2).execute([stage])
"""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short folder for the files of a Ray that a program starts."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_the_snippet_of_the_page_runs_on_a_cluster(cluster: Any, tmp_path: Path):
    (snippet,) = SNIPPETS
    (promised,) = re.findall(r"print\(.*\)  # (.*)", snippet)
    script = tmp_path / "snippet.py"
    script.write_text(snippet)
    ran = run_python(script, RAY_ADDRESS=cluster.address, PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == promised
    assert f"RayExecutor runs on the cluster at {cluster.address}" in ran.stderr


def test_ctrl_c_ends_a_run_and_the_ray_that_was_started_for_it(tmp_path: Path, ray_folder: Path):
    script, begun = tmp_path / "hangs.py", tmp_path / "begun"
    script.write_text(HANGS)
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, str(script), str(begun)], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert begun.exists(), process.stderr.read() if process.poll() is not None else "it never began"
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert "a Ray started on this machine for this run" in errors
    _, left = psutil.wait_procs(children, timeout=15)
    assert not [child.pid for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_the_plan_for_a_cluster_that_runs(cluster: Any, tmp_path: Path):
    target = tmp_path / "wants.py"
    target.write_text(
        "from gpuexec import Pipeline, Resources\n"
        "from tests.process.stages import Apply, same\n"
        "stage = Apply(same)\n"
        "stage.resources = Resources(gpus=1)\n"
        "pipeline = Pipeline('p', stages=[stage])\n"
    )
    ran = run_command("plan", f"{target}:pipeline", "--cluster", cluster.address, "--json", PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr
    plan = json.loads(ran.stdout)
    assert sorted((node["cpus"], node["gpus"]) for node in plan["nodes"]) == [(2, 0), (2, 2)]
    ((stage,),) = plan["phases"]
    assert (stage["at_first"], [node["workers"] for node in stage["nodes"]]) == (2, [2])
