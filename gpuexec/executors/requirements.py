"""What stages ask of their environment, compared with what is there: packages, an id generator, a Ray cluster.

Nothing is installed here and no cluster is started, so a stage that asks for what is missing would run with other
packages, or fail in every worker.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator import ray_actors
from gpuexec.curator.ray_actors import NamedActor
from gpuexec.curator.stage_specs import runtime_env_of
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record
from gpuexec.stage.environment import CHECKED_PARTS, requested_variables

_CREATE = "nemo_curator.stages.deduplication.id_generator.create_id_generator_actor()"


def check_requirements(stages: Sequence[Any], options: ExecutorConfig, *, has_checkpoint: bool = False) -> None:
    """Raise ``ConfigurationError`` for what a stage asks for and the environment does not have.

    With ``accept_unmet_requirements`` packages and the like are only warned about. ``has_checkpoint``: of the run.
    """
    for stage in stages:
        match ray_actors.ray_actor_of(stage):
            case NamedActor.ID_GENERATOR:
                _check_ids(stage, options, has_checkpoint=has_checkpoint)
            case NamedActor.OTHER:
                _check_ray(stage, options)
    unmet = _all_unmet(stages, options)
    if not unmet:
        return
    text = "; ".join(str(one) for one in unmet)
    if not options.accept_unmet_requirements:
        raise ConfigurationError(
            f"{text}. Nothing is installed here: {_way_out(unmet)}, or set accept_unmet_requirements=True to run with "
            "what is there"
        )
    from loguru import logger

    logger.warning("{}; accept_unmet_requirements=True, so the run goes on with what is there", text)


def unmet_requirements(stages: Sequence[Any], options: ExecutorConfig) -> list[str]:
    """Return what is asked for and not there, a clause for each, once.

    Raises ``ConfigurationError`` for what cannot be read.
    """
    return [str(one) for one in _all_unmet(stages, options)]


class _Unmet(Record):
    owner: str
    part: str
    asked: str
    problem: str

    def __str__(self) -> str:
        return f"{self.owner} asks for {self.asked!r} in its runtime_env[{self.part!r}], but {self.problem}"


def _all_unmet(stages: Sequence[Any], options: ExecutorConfig) -> list[_Unmet]:
    owners = [("the executor", options.runtime_env or {})]
    owners += [(f"stage {stage.name!r}", runtime_env_of(stage)) for stage in stages]
    unmet = []
    for owner, runtime_env in owners:
        _check_variables(owner, runtime_env.get("env_vars"))
        if any(value is not None and part in CHECKED_PARTS for part, value in runtime_env.items()):
            from gpuexec.executors.environment_demands import check_parts  # few stages ask for any

            unmet += [_Unmet(owner, *found) for found in check_parts(runtime_env, owner)]
    return list(dict.fromkeys(unmet))


def _check_variables(owner: str, variables: Any) -> None:
    if variables is not None and not isinstance(variables, Mapping):
        raise ConfigurationError(
            f"{owner}: runtime_env['env_vars'] must be a mapping of names to values, got {variables!r}"
        )
    for name, value in (variables or {}).items():
        if not str(name) or "=" in str(name) or "\0" in f"{name}{value}":
            raise ConfigurationError(
                f"{owner}: runtime_env['env_vars'] has {name!r}: {value!r}, which cannot be set: a name must be there "
                "and have no '=', and neither it nor the value may have a null character"
            )


def _way_out(unmet: Sequence[_Unmet]) -> str:
    packages = [shlex.quote(one.asked) for one in unmet if one.part in ("pip", "uv")]
    if not packages:
        return f"make the environment of this program ({sys.prefix}) what the stage asks for"
    arguments = " ".join(dict.fromkeys(packages))
    if any(one.part == "uv" for one in unmet):
        return f"run `uv pip install --python {sys.executable} {arguments}`"
    return f"run `{sys.executable} -m pip install {arguments}`"


def _check_ids(stage: Any, options: ExecutorConfig, *, has_checkpoint: bool) -> None:
    if ray_actors.own_id_generator() is not None:
        _refuse_new_ids_in_shards(stage, options)
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


def _refuse_new_ids_in_shards(stage: Any, options: ExecutorConfig) -> None:
    if options.shard is None or options.shard.endswith("/1") or not ray_actors.gives_new_ids(stage):
        return
    raise ConfigurationError(
        f"stage {stage.name!r} gives documents new ids, and this run is shard {options.shard}: every shard has an id "
        "generator of its own, so different documents would get the same ids. Number them in a run without a shard; "
        "shards can then use those ids, with _assign_ids=True and the file that write_id_generator_to_disk() wrote"
    )


def _check_ray(stage: Any, options: ExecutorConfig) -> None:
    if not _names_cluster(stage, options):
        raise ConfigurationError(
            f"stage {stage.name!r} asks Ray for {NamedActor.OTHER.value}, and no Ray cluster is named; gpuexec starts "
            f"none. Start a cluster and the actor, and set {ray_actors.RAY_ADDRESS}, or turn off what needs it"
        )


def _names_cluster(stage: Any, options: ExecutorConfig) -> bool:
    return ray_actors.names_cluster({**os.environ, **requested_variables(stage, options)})
