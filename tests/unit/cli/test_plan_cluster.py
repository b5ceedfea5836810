"""``gpuexec plan --cluster``, on clusters that are described."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.process.running import run_command

TARGET = """
from gpuexec import Pipeline, Resources
from tests.process.stages import Apply, same

def pipeline(gpus: float = 1.0):
    stage = Apply(same, name="embed")
    stage.resources = Resources(cpus=2, gpus=gpus)
    return Pipeline("p", stages=[Apply(same, name="read"), stage])
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    (tmp_path / "wants.py").write_text(TARGET)
    return f"{tmp_path / 'wants.py'}:pipeline"


def test_a_made_up_cluster_as_a_table_and_as_json(target: str):
    shown = run_command("plan", target, "--cluster", "2x4gpu", COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert "2 node(s): 2 × (32 CPUs, 4 GPU(s))" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    plan = json.loads(run_command("plan", target, "--cluster", "2x4gpu", "--json").stdout)
    (phase,) = plan["phases"]
    assert [(stage["name"], stage["at_first"]) for stage in phase] == [("read", 0), ("embed", 8)]


def test_what_fits_nowhere_is_told_with_an_exit_status(target: str, tmp_path: Path):
    (tmp_path / "nodes.json").write_text('[{"cpus": 8, "gpus": 2}]')
    shown = run_command("plan", target, "--set", "gpus=4", "--cluster", tmp_path / "nodes.json")
    assert shown.returncode == 1
    assert "does not fit: stage 'embed' asks for gpus=4, but the largest node has 2" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cluster", "many"], "is none of: a shape such as 4x8gpu"),
        (["--cluster", "missing.json"], "--cluster missing.json: No such file or directory"),
        (["--cluster", "2x4gpu", "--node", "n.json"], "give one of them"),
        (["--cluster", "2x4gpu", "-o", "queue_tasks=7"], "option 'queue_tasks' has no meaning on a Ray cluster"),
    ],
)
def test_bad_input_is_refused(target: str, arguments: list[str], text: str):
    shown = run_command("plan", target, *arguments)
    assert shown.returncode == 1
    assert text in " ".join(shown.stderr.split())
