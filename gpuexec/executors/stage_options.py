"""The options that a stage has of its own: those it states itself, then those of the executor's ``stage_options``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from gpuexec.channel.messages import ErrorHandling
from gpuexec.config import ExecutorConfig, checked_stage_options
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.stage import StageLimits
from gpuexec.curator.origin import is_curator_stage
from gpuexec.errors import ConfigurationError


def own_options(stage: Any, options: ExecutorConfig) -> dict[str, Any]:
    """Return the options that are set for this stage, by name. Raises ``ConfigurationError``."""
    stated = {} if is_curator_stage(stage) else getattr(stage, "executor_options", None) or {}
    own = checked_stage_options(stated, f"stage {stage.name!r}, executor_options") if stated else {}
    return {**own, **(options.stage_options or {}).get(stage.name, {})}


def check_stage_options(stages: Sequence[Any], options: ExecutorConfig) -> None:
    """Raise ``ConfigurationError`` for options of a stage that does not exist, or options that no stage may have."""
    names = [str(stage.name) for stage in stages]
    for name in options.stage_options or {}:
        if name not in names:
            closest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            hint = f"did you mean {closest[0]!r}?" if closest else f"the stages are {', '.join(map(repr, names))}"
            raise ConfigurationError(f"option 'stage_options': there is no stage {name!r}; {hint}")
    for stage in stages:
        own_options(stage, options)


def policy_of(config: ExecutorConfig) -> RetryPolicy:
    """Return the part of a stage's options that decides about failures."""
    return RetryPolicy(
        max_attempts=config.max_attempts,
        quarantine=config.on_task_failure == "quarantine",
        retry_on=config.retry_on,
        retire_on=config.retire_on,
        retry_delay_s=config.retry_delay_s,
        max_quarantined=config.max_quarantined,
    )


def limits_of(config: ExecutorConfig) -> StageLimits:
    """Return the part of a stage's options that limits its workers and batches."""
    return StageLimits(
        stop_timeout_s=config.stop_timeout_s,
        setup_timeout_s=config.setup_timeout_s,
        batch_timeout_s=config.batch_timeout_s,
        batch_wait_s=config.batch_wait_s,
        max_batches_per_worker=config.max_batches_per_worker,
        worker_memory_limit_bytes=config.worker_memory_limit_bytes,
    )


def error_handling_of(config: ExecutorConfig) -> ErrorHandling:
    """Return the part of a stage's options that its workers follow by themselves."""
    return ErrorHandling(
        continue_on_error=config.on_task_failure == "quarantine" or bool(config.retry_on),
        retire_on=config.retire_on,
        split_on_oom=config.split_on_oom,
        keeps_inputs=bool(config.retry_on),
    )
