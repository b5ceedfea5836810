"""The suite against NeMo Curator. It is skipped with a message where Curator is not installed. Ray must never start."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import psutil
import pytest

if importlib.util.find_spec("nemo_curator") is None:
    pytest.skip("NeMo Curator is not installed: run scripts/test-curator", allow_module_level=True)


def pytest_configure(config: pytest.Config) -> None:
    for category in ("DeprecationWarning", "FutureWarning", "UserWarning", "PendingDeprecationWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{category}")


@pytest.fixture(autouse=True)
def ray_never_starts() -> Iterator[None]:
    import ray

    yield
    assert not ray.is_initialized()
    names = {process.name() for process in psutil.Process().children(recursive=True)}
    assert not names & {"raylet", "gcs_server"}
