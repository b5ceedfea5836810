"""The options that a stage has of its own.

Those of its specs come first, then those it states itself, then those of the executor's ``stage_options``; each wins
over the ones before.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from gpuexec.channel.messages import ErrorHandling
from gpuexec.config import ExecutorConfig, checked_stage_options
from gpuexec.contract.async_stages import DEFAULT_CONCURRENCY, check_async, is_async, stated_concurrency
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.stage import StageLimits
from gpuexec.curator.origin import is_curator_stage
from gpuexec.curator.stage_specs import asks_of
from gpuexec.errors import ConfigurationError


def own_options(stage: Any, options: ExecutorConfig) -> dict[str, Any]:
    """Return the options that are set for this stage, by name. Raises ``ConfigurationError``."""
    return {**asks_of(stage).options, **user_options(stage, options)}


def user_options(stage: Any, options: ExecutorConfig) -> dict[str, Any]:
    """Return those of its options that it states itself or that the executor has for it."""
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
        check_async(stage)
        own = user_options(stage, options)
        if own.get("max_concurrency") is not None and not is_async(stage):
            raise ConfigurationError(
                f"stage {stage.name!r} is given max_concurrency={own['max_concurrency']}, but a worker calls it once "
                "at a time, since neither its process() nor its process_batch() is `async def`"
            )
        max_concurrency_of(stage, options)


def notes_on_specs(stages: Sequence[Any]) -> list[str]:
    """Return a sentence for each stage whose specs ask for what has no equal here."""
    return [note for stage in stages if (note := asks_of(stage).note(str(stage.name))) is not None]


def max_concurrency_of(stage: Any, options: ExecutorConfig) -> int | None:
    """Return how many calls a worker of an asynchronous stage has in flight at most; ``None`` for other stages."""
    if not is_async(stage):
        return None
    own: int | None = own_options(stage, options).get("max_concurrency")
    return own or stated_concurrency(stage) or options.max_concurrency or DEFAULT_CONCURRENCY


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
        max_worker_lifetime_s=config.max_worker_lifetime_s,
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
