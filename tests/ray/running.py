"""Runs of pipelines on the cluster, with all that tests ask about them."""

from __future__ import annotations

from typing import Any

import pytest

from gpuexec import Pipeline, ProcessingStage, RayExecutor
from tests.process.running import Ran
from tests.process.stages import Item


def ray_executor(**options: Any) -> RayExecutor:
    """Return an executor that draws no progress and writes no folder."""
    return RayExecutor(**{"show_progress": False, "run_dir": None, **options})


def run_ray(
    stages: list[ProcessingStage],
    tasks: list[Item] | None = None,
    *,
    raises: type[BaseException] | None = None,
    **options: Any,
) -> Ran:
    """Run stages with a RayExecutor. With ``raises``, the run must end with that exception."""
    executor, pipeline = ray_executor(**options), Pipeline("p", stages=stages)
    if raises is None:
        return Ran(pipeline.run(executor, initial_tasks=tasks), executor.last_report)
    with pytest.raises(raises) as caught:
        pipeline.run(executor, initial_tasks=tasks)
    return Ran([], executor.last_report, caught.value)
