"""What stages ask of their environment, compared with what is there: packages, an id generator, and a Ray cluster.

Nothing is installed here and no cluster is started, so a stage that asks for what is missing would run with other
packages, or fail in every worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator import ray_actors
from gpuexec.curator.ray_actors import NamedActor
from gpuexec.errors import ConfigurationError
from gpuexec.stage.environment import CHECKED_PARTS, requested_variables

_CREATE = "nemo_curator.stages.deduplication.id_generator.create_id_generator_actor()"


def check_requirements(stages: Sequence[Any], options: ExecutorConfig, *, has_checkpoint: bool = False) -> None:
    """Raise ``ConfigurationError`` for what a stage asks for and the environment does not have.

    With ``accept_unmet_requirements`` packages are only warned about. ``has_checkpoint``: the run keeps one.
    """
    for stage in stages:
        match ray_actors.ray_actor_of(stage):
            case NamedActor.ID_GENERATOR:
                _check_ids(stage, options, has_checkpoint=has_checkpoint)
            case NamedActor.OTHER:
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


def _check_ids(stage: Any, options: ExecutorConfig, *, has_checkpoint: bool) -> None:
    if ray_actors.own_id_generator() is not None:
        return
    if not _names_cluster(stage, options):
        raise ConfigurationError(
            f"stage {stage.name!r} numbers documents with NeMo Curator's id generator, and this process has none: call "
            f"{_CREATE} before the run, in the same process and after `import gpuexec` (docs/curator-ids.md)"
        )
    if has_checkpoint:
        raise ConfigurationError(
            f"stage {stage.name!r} numbers documents with an id generator that is an actor of a Ray cluster, and a "
            "checkpoint cannot keep its ids: a run that resumes could give them twice. Unset "
            f"{ray_actors.RAY_ADDRESS} before you create the generator, so that this process has it, or leave out the "
            "checkpoint"
        )


def _check_ray(stage: Any, options: ExecutorConfig) -> None:
    if not _names_cluster(stage, options):
        raise ConfigurationError(
            f"stage {stage.name!r} asks Ray for {NamedActor.OTHER.value}, and no Ray cluster is named; gpuexec starts "
            f"none. Start a cluster and the actor, and set {ray_actors.RAY_ADDRESS}, or turn off what needs it"
        )


def _names_cluster(stage: Any, options: ExecutorConfig) -> bool:
    return ray_actors.names_cluster({**os.environ, **requested_variables(stage, options)})


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
