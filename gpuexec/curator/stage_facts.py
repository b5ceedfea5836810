"""What a stage asks for, read from a stage of either library."""

from __future__ import annotations

import math
from typing import Any

from gpuexec.contract.sentinels import EmptyTask
from gpuexec.curator.origin import is_curator_stage
from gpuexec.errors import ConfigurationError
from gpuexec.plan.model import StageDemand

_BASES = {("gpuexec.contract.stage", "ProcessingStage"), ("nemo_curator.stages.base", "ProcessingStage")}
_NEEDS_RAY = {
    "is_raft_actor": "RAFT actors",
    "is_lsh_stage": "Ray's LSH shuffle actors",
    "is_shuffle_stage": "Ray's shuffle actors",
}


def demand_of(stage: Any) -> StageDemand:
    """Return what the stage asks for. Raises ``ConfigurationError`` for what cannot be meant or run here."""
    name = str(stage.name)
    _refuse_ray_only(stage, name)
    resources = stage.resources
    memory_gb = float(getattr(resources, "gpu_memory_gb", 0.0) or 0.0)
    gpus = float(getattr(resources, "gpus", 0.0) or 0.0)
    if memory_gb and is_curator_stage(stage):
        gpus = 0.0  # Curator derived it from GPU 0's size, rounded to tenths (Curator#2421)
    return StageDemand(
        name=name,
        cpus=float(resources.cpus),
        gpus=gpus,
        gpu_memory_gb=memory_gb,
        num_workers=_num_workers(stage, name),
    )


def batch_size_of(stage: Any) -> int:
    """Return the most tasks a batch of the stage may have."""
    size = 1 if stage.batch_size is None else stage.batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"stage {stage.name!r}: batch_size must be a whole number >= 1, got {size!r}")
    return size


def sets_up_node(stage: Any) -> bool:
    """Whether ``setup_on_node`` does anything: a process is started for it only then."""
    if "setup_on_node" in vars(stage):
        return True
    owner = next(cls for cls in type(stage).__mro__ if "setup_on_node" in vars(cls))
    return (owner.__module__, owner.__name__) not in _BASES


def empty_task_for(stage: Any) -> Any:
    """Return the task that a run without initial tasks begins with, of the first stage's library."""
    if not is_curator_stage(stage):
        return EmptyTask()
    from nemo_curator.tasks import EmptyTask as CuratorEmptyTask

    return CuratorEmptyTask()


def _num_workers(stage: Any, name: str) -> int | None:
    count = stage.num_workers()
    if count is None:
        per_node = getattr(stage, "num_workers_per_node", lambda: None)()
        return None if per_node is None else max(1, math.ceil(per_node))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"stage {name!r}: num_workers() must return a whole number >= 1, got {count!r}")
    return count


def _refuse_ray_only(stage: Any, name: str) -> None:
    spec: dict[Any, Any] = getattr(stage, "ray_stage_spec", dict)()
    for key, wanted in spec.items():
        need = _NEEDS_RAY.get(getattr(key, "value", key))
        if need and wanted:
            raise ConfigurationError(
                f"stage {name!r} exchanges data between its workers through {need}, which only Curator's "
                "RayActorPoolExecutor has; run the pipeline that contains it there"
            )
