"""Checks how many workers a stage asks for. It can do so in three ways, and may use one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpuexec.errors import ConfigurationError, StageContractError

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike

# Ray Data's own keys for the size of an actor pool, which stages may have in ray_stage_spec().
_POOL_KEYS = ("min_workers", "max_workers", "initial_workers")


def check_worker_sizing(stage: StageLike) -> None:
    """Check a stage's number of workers.

    Raises ``ConfigurationError`` where it is set in more than one way or is not above 0, and
    ``StageContractError`` where it is not a number.
    """
    for method in ("num_workers", "num_workers_per_node"):
        value: object = getattr(stage, method)
        if not callable(value):
            raise StageContractError(
                f"Stage {stage.name}: {method} is a method, and an attribute of that name ({value!r}) hides it: "
                f"use with_({method}=...), or name the attribute differently"
            )
    per_node = stage.num_workers_per_node()
    if per_node is not None:
        check_per_node(per_node, stage.name)
    used = []
    if stage.num_workers() is not None:
        used.append("num_workers()")
    if per_node is not None:
        used.append("num_workers_per_node()")
    spec: object = stage.ray_stage_spec()
    if not isinstance(spec, Mapping):
        raise StageContractError(f"Stage {stage.name}: ray_stage_spec() must return a mapping, got {spec!r}")
    if any(_key_name(key) in _POOL_KEYS for key in spec):
        used.append("actor-pool sizing keys in ray_stage_spec()")
    if len(used) > 1:
        raise ConfigurationError(f"Stage {stage.name} sets multiple worker-sizing options ({', '.join(used)}); use one")


def _key_name(key: object) -> object:
    return getattr(key, "value", key)  # a key may be a member of an enum


def check_per_node(value: object, stage_name: str) -> None:
    """Check what ``num_workers_per_node()`` returns. Raises as `check_worker_sizing` does."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StageContractError(
            f"num_workers_per_node for stage {stage_name} must be a positive number, got {value!r}"
        )
    if not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"num_workers_per_node for stage {stage_name} must be finite and > 0, got {value!r}")
