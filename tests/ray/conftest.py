"""The suite of RayExecutor: one cluster of two nodes for all tests, and nothing of it is left behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: run scripts/test-ray", allow_module_level=True)

os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",  # a cluster and its client may disagree about the token otherwise
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_MEMORY_MONITOR": "1",  # others use the machine too
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_worker_niceness": "0",  # Ray's workers let all others go first, which takes long on a busy machine
        "RAY_health_check_period_ms": "500",  # so that the loss of a node is noticed soon
        "RAY_health_check_failure_threshold": "3",
    }
)


def pytest_configure(config: pytest.Config) -> None:
    # Ray warns of its own future, and leaves sockets and processes to the garbage collector.
    config.addinivalue_line("filterwarnings", "default")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Ray's own processes and descriptors come and go while the cluster lives: `cluster` looks at the end."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes, this program connected to it: 2 CPUs each, and 2 GPUs (as far as Ray knows) on one."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets must be short
    sessions = Path(folder, "ray")
    sessions.mkdir()
    os.environ["RAY_TMPDIR"] = folder  # where Ray notes the address of its latest cluster
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    started = Cluster()
    try:
        started.add_node(num_cpus=2, num_gpus=0, temp_dir=str(sessions), include_dashboard=False)
        started.add_node(num_cpus=2, num_gpus=2)
        ray.init(address=started.address, logging_level="warning", log_to_driver=False)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
        left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        _, left = psutil.wait_procs(left, timeout=10)
        for child in left:
            child.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, "Ray's processes outlived its shutdown"
    assert not Path(folder).exists()


@pytest.fixture
def hostname() -> str:
    return socket.gethostname()
