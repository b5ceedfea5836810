"""A plugin of pytest for NeMo Curator's own tests: every executor in them is `LocalExecutor`, and Ray is not started.

`scripts/test-curator --own CHECKOUT` loads it, before the tests import anything. With ``REAL_RAY=1`` a cluster is
started as the tests ask, for those that talk to it themselves.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import ray
from nemo_curator.core.client import RayClient

from gpuexec import LocalExecutor

EXECUTORS = {
    "nemo_curator.backends.ray_data": "RayDataExecutor",
    "nemo_curator.backends.ray_data.executor": "RayDataExecutor",
    "nemo_curator.backends.xenna": "XennaExecutor",
    "nemo_curator.backends.xenna.executor": "XennaExecutor",
    "nemo_curator.backends.ray_actor_pool": "RayActorPoolExecutor",
    "nemo_curator.backends.ray_actor_pool.executor": "RayActorPoolExecutor",
}


class InTheirPlace(LocalExecutor):
    """Takes their arguments, which say how Ray is to be used, and does without."""

    def __init__(self, config: dict[str, Any] | None = None, ignore_head_node: bool = False) -> None:
        del config, ignore_head_node
        super().__init__(show_progress=False, capsule_dir="")


def _start_nothing(_client: RayClient) -> None:
    os.environ["RAY_ADDRESS"] = ""


for module, name in EXECUTORS.items():
    setattr(importlib.import_module(module), name, InTheirPlace)
if not os.environ.get("REAL_RAY"):
    RayClient.start, RayClient.stop = _start_nothing, lambda _client: None
    ray.init = ray.shutdown = lambda *_args, **_options: None
