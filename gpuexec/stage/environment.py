"""The environment of a stage: which variables it asks for, and how to set them for a while in this process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator.stage_specs import runtime_env_of

CHECKED_PARTS = frozenset(  # of a runtime_env: executors.requirements compares them with what is there
    (
        *("pip", "uv", "conda", "working_dir", "py_modules", "py_executable", "container", "image_uri", "java_jars"),
        *("mpi", "worker_process_setup_hook"),
    )
)
CURATOR_FILTER = "NEMO_CURATOR_SLURM_ARRAY_ENABLED"  # of Curator's own filter for SLURM arrays
_SUPPORTED = "env_vars"
_NO_DEMAND = ("excludes", "config")  # how Ray is to bring things about


def env_vars_for(stage: Any, options: ExecutorConfig) -> dict[str, str]:
    """Return the variables to set for a stage: those of the executor's ``runtime_env``, then the stage's own.

    A warning names the parts of the stage's ``runtime_env`` that have no meaning here.
    """
    own = runtime_env_of(stage)
    ignored = sorted(set(own) - {_SUPPORTED, *CHECKED_PARTS, *_NO_DEMAND})
    if ignored:
        from loguru import logger

        logger.warning(
            "stage {}: runtime_env {} is ignored: it has no meaning here",
            stage.name,
            ignored,
        )
    return requested_variables(stage, options)


def requested_variables(stage: Any, options: ExecutorConfig) -> dict[str, str]:
    """Return the variables to set for a stage, without a word about the rest of its ``runtime_env``.

    A run with a shard cuts its sources itself, so Curator's filter must not do it again.
    """
    variables = {**_env_vars_in(options.runtime_env), **_env_vars_in(runtime_env_of(stage))}
    return variables if options.shard is None else {**variables, CURATOR_FILTER: "0"}


@contextlib.contextmanager
def temporary_environment(variables: Mapping[str, str], search_path: Sequence[str] | None = None) -> Iterator[None]:
    """Set environment variables, and ``sys.path`` if given, for the block; restore both afterwards."""
    previous = {name: os.environ.get(name) for name in variables}
    previous_path = list(sys.path)
    os.environ.update(variables)
    if search_path is not None:
        sys.path[:] = search_path
    try:
        yield
    finally:
        if search_path is not None:
            sys.path[:] = previous_path
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _env_vars_in(runtime_env: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in ((runtime_env or {}).get(_SUPPORTED) or {}).items()}
