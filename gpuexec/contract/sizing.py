"""How many workers a stage may ask for, and in which of three ways."""

from __future__ import annotations

import math
from typing import Any

from gpuexec.errors import ConfigurationError, StageContractError

# Ray Data's own keys for the size of an actor pool, which stages may carry in ray_stage_spec().
_POOL_KEYS = ("min_workers", "max_workers", "initial_workers")


def check_worker_sizing(stage: Any) -> None:
    """Check how a stage sets its number of workers.

    Raises ``ConfigurationError`` for a count set in more than one way or not above 0, ``StageContractError`` for
    something that is not a number.
    """
    per_node = stage.num_workers_per_node()
    if per_node is not None:
        _check_per_node(per_node, stage.name)
    given = []
    if stage.num_workers() is not None:
        given.append("num_workers()")
    if per_node is not None:
        given.append("num_workers_per_node()")
    if any(_key_name(key) in _POOL_KEYS for key in stage.ray_stage_spec()):
        given.append("actor-pool sizing keys in ray_stage_spec()")
    if len(given) > 1:
        raise ConfigurationError(
            f"Stage {stage.name} sets multiple worker-sizing options ({', '.join(given)}); use one"
        )


def _key_name(key: object) -> object:
    return getattr(key, "value", key)


def _check_per_node(value: object, stage_name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StageContractError(
            f"num_workers_per_node for stage {stage_name} must be a positive number, got {value!r}"
        )
    if not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"num_workers_per_node for stage {stage_name} must be finite and > 0, got {value!r}")
