"""Changes a pipeline as the settings of a point say, and tells what it is without them.

A key of a stage is, in this order: a resource of a worker (``cpus``, ``gpus``, ``gpu_memory_gb``), a parameter of the
stage's ``with_()``, an executor option that single stages may have, or a field of the stage's dataclass, for which the
stage is made anew. Of a composite stage, fields of its dataclass may be named. Other attributes cannot be varied: what
a constructor has derived from them would not follow.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gpuexec.bench.space import Changes, Name, Part, name_of
from gpuexec.config import ExecutorConfig, unknown_option
from gpuexec.curator import stage_facts
from gpuexec.errors import ConfigurationError
from gpuexec.executors.stage_options import own_options
from gpuexec.executors.target import kind_of, read_arguments
from gpuexec.executors.values import read_value

RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_OBJECTS = ("name", "resources", "runtime_env", "ray_stage_spec", "xenna_stage_spec", "stage_with_dict")
# What with_() and build() set on a stage, which making it anew would lose.
_SET_LATER = (
    *("name", "resources", "batch_size", "runtime_env", "executor_options", "fuse", "reads_only", "num_workers"),
    *("num_workers_per_node", "ray_stage_spec", "xenna_stage_spec", "is_source_stage", "is_sink_stage"),
    "_with_operations",
)
_OPTIONS = {option.name: option for option in dataclasses.fields(ExecutorConfig)}
_STAGE_OPTIONS = {name: option for name, option in _OPTIONS.items() if option.metadata["per_stage"]}


def apply(pipeline: Any, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Build a pipeline with changed stages. Return the executor options of single stages that belong to the change.

    ``stages``: values by the stage's name and key. Raises ``ConfigurationError`` for names that do not exist, and what
    ``with_()`` and constructors raise for values.
    """
    before = list(pipeline.stages)
    pipeline.stages = [
        _made_anew(stage, own) if (own := _own_fields(stage, stages)) else stage for stage in pipeline.stages
    ]
    pipeline.build()
    of_composites = {(stage.name, key) for stage in before for key in _own_fields(stage, stages)}
    options: dict[str, dict[str, Any]] = {}
    for stage_name, changes in stages.items():
        own = {key: value for key, value in changes.items() if (stage_name, key) not in of_composites}
        if own:
            at = _position(pipeline.stages, before, stage_name, own)
            pipeline.stages[at], options[stage_name] = _changed(pipeline.stages[at], own)
    return {name: own for name, own in options.items() if own}


class Today:
    """What a target is without any setting, and how texts for its settings are read.

    ``target``: the pipeline, not built yet, or the function that has returned it; ``arguments``: its own.
    """

    def __init__(self, target: Any, pipeline: Any, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._target = target
        self._arguments = arguments
        self._options = ExecutorConfig.create(options)
        self._composites = [stage for stage in pipeline.stages if _is_composite(stage)]
        pipeline.build()
        self._stages = list(pipeline.stages)

    def value(self, text: str) -> Any:
        """Return what a name stands for today, as a plain value. Raises ``ConfigurationError`` for unknown names."""
        name = name_of(text)
        if name.part is Part.OPTION:
            return _plain(getattr(self._options, self._option(name).name))
        if name.part is Part.ARGUMENT:
            parameter = self._parameter(name)
            default = None if parameter is None or parameter.default is parameter.empty else parameter.default
            given = read_arguments(self._target, self._target.__name__, self._arguments)
            return _plain(given.get(name.key, default))
        return _plain(self._stage_value(self._stage(name), name.key))

    def read(self, text: str, value: Any) -> Any:
        """Return a value as its name's kind, if it is a text of the command line. Raises ``ConfigurationError``."""
        name = name_of(text)
        if not isinstance(value, str):
            return list(value) if isinstance(value, tuple) else value
        if name.part is Part.OPTION:
            kind = str(self._option(name).type)
        elif name.part is Part.ARGUMENT:
            parameter = self._parameter(name)
            kind = "" if parameter is None else kind_of(parameter)
        else:
            kind = _kind_of_key(self._stage(name), name.key)
        read = read_value(value, kind, where=f"{text}={value!r}: it")
        return read if _plain(read) == read else value

    def is_field(self, text: str) -> bool:
        """Return whether a name is a field of a stage's dataclass, which ``with_()`` does not take."""
        name = name_of(text)
        return name.part is Part.STAGE and name.key in _fields(self._stage(name))

    def _option(self, name: Name) -> Any:
        if name.key not in _OPTIONS:
            raise ConfigurationError(unknown_option(name.key, _OPTIONS))
        return _OPTIONS[name.key]

    def _parameter(self, name: Name) -> inspect.Parameter | None:
        if not callable(self._target):
            raise ConfigurationError(f"set.{name.key}: the target is a Pipeline, and only functions have arguments")
        parameters = inspect.signature(self._target).parameters
        if name.key not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            raise ConfigurationError(
                f"{self._target.__name__}() has no parameter {name.key!r}{_closest(name.key, parameters)}"
            )
        return parameters.get(name.key)

    def _stage(self, name: Name) -> Any:
        for composite in self._composites:
            if composite.name == name.stage and name.key in _fields(composite):
                return composite
        return self._stages[_position(self._stages, self._composites, name.stage, [name.key])]

    def _stage_value(self, stage: Any, key: str) -> Any:
        if key in RESOURCES:
            return getattr(stage_facts.demand_of(stage), key)
        if key in _STAGE_OPTIONS and key not in _parameters(stage):
            return {**vars_of(self._options), **own_options(stage, self._options)}[key]
        value = getattr(stage, key, None)
        return value() if callable(value) else value


def vars_of(options: ExecutorConfig) -> dict[str, Any]:
    """Return all executor options by name."""
    return {name: getattr(options, name) for name in _OPTIONS}


def executor_options(options: Mapping[str, Any], changes: Changes, of_stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a point's executor. ``of_stages``: what `apply` returned."""
    own = {name: dict(values) for name, values in (options.get("stage_options") or {}).items()}
    for name, values in of_stages.items():
        own[name] = {**own.get(name, {}), **values}
    return {**options, **changes.options, **({"stage_options": own} if own else {})}


def _changed(stage: Any, changes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a changed stage, and those of the changes that are options of the executor."""
    parameters = _parameters(stage)
    resources = {key: value for key, value in changes.items() if key in RESOURCES}
    arguments = {key: value for key, value in changes.items() if key in parameters and key not in resources}
    left = {key: value for key, value in changes.items() if key not in resources and key not in arguments}
    options = {key: value for key, value in left.items() if key in _STAGE_OPTIONS}
    fields = {key: value for key, value in left.items() if key not in options}
    if fields:
        stage = _made_anew(stage, fields)
    if resources:
        arguments["resources"] = _resources(stage, resources)
    return (stage.with_(**arguments) if arguments else stage), options


def _resources(stage: Any, changes: Mapping[str, Any]) -> Any:
    """Return a worker's resources with changes. A number of GPUs replaces GPU memory, and the other way round."""
    demand = stage_facts.demand_of(stage)
    asked = {key: getattr(demand, key) for key in RESOURCES}
    for key, other in (("gpus", "gpu_memory_gb"), ("gpu_memory_gb", "gpus")):
        if changes.get(key) and other not in changes:
            asked[other] = 0.0
    return dataclasses.replace(stage.resources, **{**asked, **changes})


def _made_anew(stage: Any, fields: Mapping[str, Any]) -> Any:
    """Return a dataclass stage with other fields. What was set on it after it had been made is set again."""
    made, as_it_was = dataclasses.replace(stage, **fields), dataclasses.replace(stage)
    known = _fields(stage)
    for name in _SET_LATER:
        if (
            name in vars(stage)
            and name not in known
            and vars(stage)[name] != vars(as_it_was).get(name, dataclasses.MISSING)
        ):
            setattr(made, name, vars(stage)[name])
    return made


def _position(stages: Sequence[Any], composites: Sequence[Any], name: str, keys: Iterable[str]) -> int:
    """Return where the stage of a name is. Raises ``ConfigurationError`` if there is none, or it has no such keys."""
    found = [at for at, stage in enumerate(stages) if stage.name == name]
    if len(found) > 1:
        raise ConfigurationError(f"there are {len(found)} stages {name!r}: give them names of their own to vary one")
    if not found:
        inside = [key for stage in composites if stage.name == name for key in _fields(stage)]
        if inside:
            wrong = next(iter(keys))
            raise ConfigurationError(f"{name}.{wrong}: {name!r} is a composite stage{_listed(wrong, inside)}")
        names = [stage.name for stage in stages]
        raise ConfigurationError(f"there is no stage {name!r}{_listed(name, names)}")
    for key in keys:
        _check_key(stages[found[0]], key)
    return found[0]


def _check_key(stage: Any, key: str) -> None:
    known = _keys(stage)
    if key in known:
        return
    if key in _OBJECTS:
        raise ConfigurationError(
            f"{stage.name}.{key} cannot be varied: its values would be objects, not numbers or text"
        )
    if hasattr(stage, key):
        raise ConfigurationError(
            f"stage {stage.name!r} has {key!r}, but neither its with_() nor a dataclass takes it: make it an argument "
            "of the function that returns the pipeline, and vary that (set.KEY)"
        )
    raise ConfigurationError(f"stage {stage.name!r} has no {key!r}{_listed(key, known)}")


def _own_fields(stage: Any, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what of the settings are fields of a composite stage itself."""
    if not _is_composite(stage):
        return {}
    return {key: value for key, value in stages.get(stage.name, {}).items() if key in _fields(stage)}


def _keys(stage: Any) -> list[str]:
    return list(dict.fromkeys([*RESOURCES, *_parameters(stage), *_fields(stage), *_STAGE_OPTIONS]))


def _parameters(stage: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of ``with_()`` that plain values can be given for."""
    found = inspect.signature(stage.with_).parameters
    return {name: p for name, p in found.items() if name not in _OBJECTS and p.kind is not p.VAR_KEYWORD}


def _fields(stage: Any) -> list[str]:
    """Return the fields of a stage's dataclass that its constructor takes, and its ``with_()`` does not."""
    if not dataclasses.is_dataclass(stage):
        return []
    taken = {*RESOURCES, *_OBJECTS, *_STAGE_OPTIONS, *_parameters(stage)}
    return [field.name for field in dataclasses.fields(stage) if field.init and field.name not in taken]


def _kind_of_key(stage: Any, key: str) -> str:
    if key in RESOURCES:
        return "float"
    parameters = _parameters(stage)
    if key in parameters:
        return kind_of(parameters[key])
    if key in _fields(stage):
        return kind_of(inspect.signature(type(stage).__init__).parameters[key])
    return str(_STAGE_OPTIONS[key].type)


def _is_composite(stage: Any) -> bool:
    return callable(getattr(stage, "decompose_and_apply_with", None))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what JSON cannot carry as text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)


def _closest(name: str, known: Collection[str]) -> str:
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {closest[0]!r}?" if closest else ""


def _listed(name: str, known: Collection[str]) -> str:
    return _closest(name, known) or f"; there are {', '.join(known)}"
