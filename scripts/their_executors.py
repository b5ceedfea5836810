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

EXECUTORS = {"ray_data": "RayDataExecutor", "xenna": "XennaExecutor", "ray_actor_pool": "RayActorPoolExecutor"}


class InTheirPlace(LocalExecutor):
    """Takes their arguments, which say how Ray is to be used, and does without."""

    def __init__(self, config: dict[str, Any] | None = None, ignore_head_node: bool = False) -> None:
        del config, ignore_head_node
        super().__init__(show_progress=False, capsule_dir="")


def _start_nothing(_client: RayClient) -> None:
    os.environ["RAY_ADDRESS"] = ""


for package, name in EXECUTORS.items():
    for module in (package, f"{package}.executor"):
        setattr(importlib.import_module(f"nemo_curator.backends.{module}"), name, InTheirPlace)
if not os.environ.get("REAL_RAY"):
    RayClient.start, RayClient.stop = _start_nothing, lambda _client: None
    ray.init = ray.shutdown = lambda *_args, **_options: None
