"""Pipelines whose stages are all NeMo Curator's go through Curator's own executors."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError
from gpuexec.executors.option_repr import changed_options
from gpuexec.stage.environment import temporary_environment

_CLASSES = {
    "ray_data": ("nemo_curator.backends.ray_data", "RayDataExecutor"),
    "xenna": ("nemo_curator.backends.xenna", "XennaExecutor"),
    "ray_actor_pool": ("nemo_curator.backends.ray_actor_pool", "RayActorPoolExecutor"),
}
CURATORS = (*_CLASSES, "none")
_WITHOUT_EFFECT_THERE = ("show_progress", "progress_interval_s", "run_dir")  # about showing, not about the results


def run_curators(
    name: str, options: ExecutorConfig, address: str | None, stages: Sequence[Any], initial_tasks: Sequence[Any] | None
) -> list[Any]:
    """Run a pipeline of Curator's on one of its executors. Raises ``ConfigurationError`` for options it lacks."""
    for option in changed_options(options):
        if option not in _WITHOUT_EFFECT_THERE:
            raise ConfigurationError(
                f"RayExecutor: all stages are NeMo Curator's, so its executor {name!r} runs them, which has no option "
                f"{option!r}: leave it out, or give curator_executor='none' to run them as other stages"
            )
    import ray
    from loguru import logger

    module, class_name = _CLASSES[name]
    executor = getattr(importlib.import_module(module), class_name)()
    logger.info("RayExecutor: all stages are NeMo Curator's; its {} runs them", class_name)
    was_there = ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    if was_there is not None:
        logger.warning("{} shuts this program's Ray down at its end", class_name)
    where = address or os.environ.get("RAY_ADDRESS")
    with temporary_environment({"RAY_ADDRESS": where} if where else {}):
        return list(executor.execute(list(stages), initial_tasks) or [])
