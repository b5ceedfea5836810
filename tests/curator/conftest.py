"""The suite against NeMo Curator. It is skipped with a message where Curator is not installed. Ray must never start."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.curator.stage_runs import StageRuns

PASSED = pytest.StashKey[bool]()

if importlib.util.find_spec("nemo_curator") is None:
    pytest.skip("NeMo Curator is not installed: run scripts/test-curator", allow_module_level=True)


def pytest_configure(config: pytest.Config) -> None:
    for category in ("DeprecationWarning", "FutureWarning", "UserWarning", "PendingDeprecationWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{category}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(scope="session")
def stage_runs() -> Iterator[StageRuns | None]:
    from tests.curator.stage_runs import stage_runs

    runs = stage_runs()
    with pytest.MonkeyPatch.context() as patch:
        if runs is not None:
            runs.install(patch)
        yield runs


@pytest.fixture(autouse=True)
def notes_stages(request: pytest.FixtureRequest, stage_runs: StageRuns | None) -> Iterator[None]:
    if stage_runs is not None:
        stage_runs.begin()
    yield
    if stage_runs is not None and request.node.stash.get(PASSED, False):
        stage_runs.finish(request.node.nodeid)


@pytest.fixture(autouse=True)
def ray_never_starts() -> Iterator[None]:
    import ray

    yield
    assert not ray.is_initialized()
    names = {process.name() for process in psutil.Process().children(recursive=True)}
    assert not names & {"raylet", "gcs_server"}
