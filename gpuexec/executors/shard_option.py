"""Which shard a run is: by the option, by GPUEXEC_SHARD, or where NeMo Curator's own filter would cut."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator.origin import is_curator_stage
from gpuexec.shards import Shard

VARIABLE = "GPUEXEC_SHARD"
_AUTO = "auto"
_CURATOR_MODULE = "nemo_curator.backends.slurm_array"


def with_shard(
    options: ExecutorConfig, stages: Sequence[Any], environ: Mapping[str, str] | None = None
) -> ExecutorConfig:
    """Return the options with the shard that the run is, as "K/N"; ``None`` if it processes all sources.

    The option wins over ``GPUEXEC_SHARD``, and that over Curator's own filter for SLURM arrays. That filter is switched
    off in the workers of a run with a shard (`requested_variables`), so that sources are not cut twice; where it would
    have cut, the run keeps to the same sources as the filter would.

    Raises ``ConfigurationError`` for a shard that does not exist, or that cannot be told from the environment.
    """
    environ = os.environ if environ is None else environ
    given, where = options.shard, "option 'shard'"
    if given is None and environ.get(VARIABLE, "").strip():
        given, where = environ[VARIABLE], VARIABLE
    if given is not None:
        return _with(options, *_resolved(given.strip(), where, environ))
    if not (_mentions_arrays(environ) and is_curator_stage(source_stage(stages))):
        return options
    if importlib.util.find_spec(_CURATOR_MODULE) is None:  # a Curator of before it had the filter
        return options
    from gpuexec.executors.shard_variables import curator_filter

    found = curator_filter(environ)
    return options if found is None else _with(options, found.shard, found.variables)


def source_stage(stages: Sequence[Any]) -> Any:
    """Return the stage that makes the sources: the one that is marked, else the first."""
    return next((stage for stage in stages if getattr(stage, "is_source_stage", False)), stages[0])


def _resolved(given: str, where: str, environ: Mapping[str, str]) -> tuple[Shard, str]:
    index, _, count = given.partition("/")
    if index != _AUTO:
        return Shard.read(given, where), where
    from gpuexec.executors.shard_variables import shard_of_environment

    total = Shard.read(f"0/{count}", where).count if count else None
    found = shard_of_environment(environ, total)
    return found.shard, found.variables


def _with(options: ExecutorConfig, shard: Shard, told_by: str) -> ExecutorConfig:
    from loguru import logger

    logger.info("shard {}, counted from 0, by {}", shard, told_by)
    return dataclasses.replace(options, shard=str(shard))


def _mentions_arrays(environ: Mapping[str, str]) -> bool:
    return any("SLURM_ARRAY_" in name for name in environ)
