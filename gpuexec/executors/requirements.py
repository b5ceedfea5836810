"""What stages ask of their environment, compared with what is there: packages, and a Ray cluster.

Nothing is installed here and no cluster is started, so a stage that asks for what is missing would run with other
packages, or start Ray by itself in every worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator.ray_actors import ray_actor_of
from gpuexec.errors import ConfigurationError
from gpuexec.stage.environment import CHECKED_PARTS, requested_variables

_RAY_ADDRESS = "RAY_ADDRESS"


def check_requirements(stages: Sequence[Any], options: ExecutorConfig) -> None:
    """Raise ``ConfigurationError`` for what a stage asks for and the environment does not have.

    With ``accept_unmet_requirements`` packages are only warned about.
    """
    for stage in stages:
        _check_ray(stage, options)
    unmet = unmet_requirements(stages, options)
    if not unmet:
        return
    text = "; ".join(unmet)
    if not options.accept_unmet_requirements:
        raise ConfigurationError(
            f"{text}. Nothing is installed here: install what is missing in {sys.prefix}, "
            "or set accept_unmet_requirements=True to run with what is there"
        )
    from loguru import logger

    logger.warning("{}; accept_unmet_requirements=True, so the run goes on with what is there", text)


def unmet_requirements(stages: Sequence[Any], options: ExecutorConfig) -> list[str]:
    """Return what is asked for and not installed, a clause for each, once.

    Raises ``ConfigurationError`` if a file of requirements cannot be read.
    """
    unmet = list(_unmet("the executor", options.runtime_env))
    for stage in stages:
        unmet += _unmet(f"stage {stage.name!r}", getattr(stage, "runtime_env", None))
    return list(dict.fromkeys(unmet))


def _check_ray(stage: Any, options: ExecutorConfig) -> None:
    actor = ray_actor_of(stage)
    if actor is None or _RAY_ADDRESS in os.environ or _RAY_ADDRESS in requested_variables(stage, options):
        return
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return
    raise ConfigurationError(
        f"stage {stage.name!r} asks Ray for {actor}, and no Ray cluster is named: each worker would start a Ray of its "
        f"own, without that actor. Start a cluster and the actor, and set {_RAY_ADDRESS}, or turn off what needs it"
    )


def _unmet(owner: str, runtime_env: Mapping[str, Any] | None) -> Iterator[str]:
    for part in CHECKED_PARTS:
        for text in _requirements((runtime_env or {}).get(part), owner, part):
            problem = _problem(text)
            if problem:
                yield f"{owner} asks for {text!r} in its runtime_env[{part!r}], but {problem}"


def _requirements(value: Any, owner: str, part: str) -> Iterator[str]:
    """Yield the requirements in a list, in the file of that name, or in a dict that has one of these as packages."""
    if isinstance(value, Mapping):
        value = value.get("packages")
    if isinstance(value, str | os.PathLike):
        try:
            value = Path(value).read_text().splitlines()
        except OSError as error:
            raise ConfigurationError(
                f"{owner}: the requirements file {str(value)!r} of its runtime_env[{part!r}] cannot be read: "
                f"{error.strerror}"
            ) from error
    for line in value or ():
        text = str(line).partition(" #")[0].strip()
        if text and not text.startswith(("#", "-")):  # a comment, or an option of pip
            yield text


def _problem(text: str) -> str | None:
    """Return what is wrong with the environment, as far as a requirement tells; ``None`` if it is met."""
    from importlib import metadata

    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return "it is not a requirement by name and version, so it cannot be checked"
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed"
    return None
