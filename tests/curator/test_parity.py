"""NeMo Curator's own stages, as many as run without a GPU, a model and the network: here, and on Ray Data as oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nemo_curator.pipeline import Pipeline

from gpuexec import InlineExecutor, LocalExecutor
from tests.curator.parity_pipelines import (
    ABSENT,
    NOT_IN_THE_DRIVER,
    PIPELINES,
    Place,
    empty_place,
    outcome,
    write_inputs,
)
from tests.curator.ray_command import asks_ray, path_with_ray
from tests.curator.stand_in_server import serving
from tests.curator.version import VERSION
from tests.process.running import ROOT

ORACLE_S = 1800  # a pipeline takes Ray Data some 15 s on two cores, and much more beside other work
# What Curator's own stages raise on Ray Data, whose batches of tasks are NumPy arrays.
RAISED_ON_RAY_DATA = {"samples": "The truth value of an array with more than one element is ambiguous"}
SERVED = [name for name in PIPELINES if not VERSION.startswith(ABSENT.get(name, "none"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    folder = tmp_path_factory.mktemp("parity")
    (folder / "in").mkdir()
    write_inputs(folder / "in")
    with serving(folder / "in") as server:

        def place_of(name: str) -> Place:
            return empty_place(folder, name, server)

        place_of.folder, place_of.server = folder, server
        yield place_of


@pytest.fixture(scope="module")
def oracle(place: Any) -> Callable[[str], dict[str, Any]]:
    """Return what Ray Data gives for a pipeline. All of them run when the first is asked for, in one cluster."""
    environ = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "GPUEXEC_STAGE_RUNS"}}
    paths = path_with_ray(environ)
    with tempfile.TemporaryDirectory(
        prefix="r", dir="/tmp", ignore_cleanup_errors=True
    ) as temporary:  # a socket's path must be short
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "tests.curator.parity_on_ray",
                place.folder,
                temporary,
                place.server,
                *SERVED,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=ORACLE_S,
            env={**environ, "PYTHONPATH": str(ROOT), "PATH": paths, "RAY_AUTH_MODE": "disabled"},
        )

    def on_ray(name: str) -> dict[str, Any]:
        path = place.folder / f"{name}.json"
        assert path.exists(), done.stderr[-4000:]
        return json.loads(path.read_text())

    return on_ray


@pytest.fixture(scope="module")
def here(place: Any) -> Callable[[str], dict[str, Any]]:
    """Return what `LocalExecutor` gives for a pipeline, which runs once."""
    known: dict[str, dict[str, Any]] = {}

    def run(name: str) -> dict[str, Any]:
        if name not in known:
            known[name] = _run(name, place(name), LocalExecutor(show_progress=False, capsule_dir=""))
        return known[name]

    return run


def _run(name: str, at: Place, executor: Any) -> dict[str, Any]:
    stages, tasks = PIPELINES[name](at)
    return outcome(Pipeline(name=name, stages=stages).run(executor, initial_tasks=tasks), at)


@pytest.mark.parametrize("name", list(PIPELINES))
def test_stages_run_here(place: Any, here: Any, name: str):
    """`InlineExecutor` calls the stages one after the other in this process, which is what they are made for."""
    skip_absent(name)
    if name in NOT_IN_THE_DRIVER:
        assert here(name)["tasks"]
        return
    inline = _run(name, place(name), InlineExecutor(show_progress=False, capsule_dir=""))
    assert inline["tasks"]
    assert here(name) == inline


@asks_ray
@pytest.mark.timeout(ORACLE_S + 100)
@pytest.mark.parametrize("name", list(PIPELINES))
def test_results_are_those_of_ray_data(here: Any, oracle: Any, name: str):
    skip_absent(name)
    if name in RAISED_ON_RAY_DATA:
        assert RAISED_ON_RAY_DATA[name] in oracle(name)["error"]
        return
    assert "error" not in oracle(name), oracle(name)["error"]
    assert here(name) == oracle(name)


def skip_absent(name: str) -> None:
    if name not in SERVED:
        pytest.skip(f"NeMo Curator {VERSION} does not have these stages")
