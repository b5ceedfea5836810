"""What the stages of a pipeline ask for on a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuexec.curator import stage_facts
from gpuexec.curator.stage_specs import asks_of, spec_of
from gpuexec.errors import ConfigurationError
from gpuexec.planning.cluster import StageSizing
from gpuexec.planning.request import request_of

_METHODS = ("setup", "teardown", "setup_on_node")


def sizings_of(stages: Sequence[Any], nodes: int) -> list[StageSizing]:
    """Return the sizes of all stages for so many nodes. Raises ``ConfigurationError`` for what has no meaning."""
    return [_sizing(index, stage, nodes) for index, stage in enumerate(stages)]


def uses_actors(stage: Any) -> bool:
    """Return whether the stage's workers are actors: it has a set-up, or a GPU, or says so for Ray Data."""
    stated = _spec(stage).get("is_actor_stage")
    if stated is not None:
        return bool(stated)
    asks = stage.resources
    return bool(asks.gpus or asks.gpu_memory_gb) or any(stage_facts.is_own_method(stage, name) for name in _METHODS)


def fans_out(stage: Any) -> bool:
    """Return whether the stage makes many tasks of one, so that they are spread over the nodes at once."""
    return bool(getattr(stage, "is_source_stage", False) or _spec(stage).get("is_fanout_stage"))


def remote_args(stage: Any) -> dict[str, Any]:
    """Return the arguments for Ray that a stage states. Raises ``ConfigurationError`` for those that gpuexec sets."""
    given = dict(_spec(stage).get("ray_remote_args") or {})
    for name in ("num_cpus", "num_gpus", "compute", "max_calls"):
        if name in given:
            raise ConfigurationError(
                f"stage {stage.name!r}: ray_remote_args has {name!r}, which gpuexec sets from resources and "
                "num_workers(): set it there"
            )
    return given


def _spec(stage: Any) -> dict[str, Any]:
    return spec_of(stage, "ray_stage_spec")


def _sizing(index: int, stage: Any, nodes: int) -> StageSizing:
    request = request_of(index, stage_facts.demand_of(stage))
    actors = uses_actors(stage)
    if request.uses_gpu and not actors:
        raise ConfigurationError(
            f"stage {stage.name!r}: is_actor_stage=False in ray_stage_spec(), but it asks for a GPU, whose workers are "
            "actors: leave it out"
        )
    asks = asks_of(stage)
    stated = stage.num_workers_per_node()
    per_node = asks.workers_per_node if stated is None else stated
    fixed = max(1, math.ceil(per_node * max(1, nodes))) if per_node is not None else stage.num_workers()
    if fixed is not None:
        return StageSizing(request, actors, fixed, fixed, fixed)
    return StageSizing(request, actors, asks.min_workers or 1, asks.max_workers, asks.initial_workers)
