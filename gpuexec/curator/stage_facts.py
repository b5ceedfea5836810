"""What a stage of either library asks for, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

from gpuexec.contract.async_stages import is_async, takes_batches
from gpuexec.contract.base_classes import is_base_class
from gpuexec.contract.sentinels import EmptyTask
from gpuexec.contract.sizing import check_per_node
from gpuexec.curator.origin import is_curator_stage
from gpuexec.curator.ray_only import refuse_ray_only
from gpuexec.curator.stage_specs import StageAsks, asks_of
from gpuexec.errors import ConfigurationError
from gpuexec.planning.model import StageDemand

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike

_INPUT_AND_OUTPUT = 2  # the parameters of ProcessingStage
_FILTERS_MODULE = "nemo_curator.stages.text.filters.score_filter"  # Score, Filter and ScoreFilter
_WRAPPED = ("filter_obj", "score_fn", "filter_fn")  # their attributes: lists of what they wrap
_LOADS = {"setup": ("load_model", "load_tokenizer"), "setup_on_node": ("model_check_or_download",)}


def demand_of(stage: StageLike) -> StageDemand:
    """Return what the stage asks for. Raises ``ConfigurationError`` for requests that are invalid or need Ray."""
    name = str(stage.name)
    refuse_ray_only(stage)
    asks = asks_of(stage)
    memory_gb = float(stage.resources.gpu_memory_gb or 0.0)
    gpus = float(stage.resources.gpus or 0.0)
    if memory_gb and is_curator_stage(stage):
        gpus = 0.0  # Curator derived it from the size of GPU 0, rounded to tenths (Curator#2421)
    return StageDemand(
        name=name,
        cpus=float(stage.resources.cpus),
        gpus=gpus,
        gpu_memory_gb=memory_gb,
        num_workers=_num_workers(stage, name, asks),
        min_workers=asks.min_workers,
        max_workers=asks.max_workers,
        initial_workers=asks.initial_workers,
    )


def batch_size_of(stage: StageLike) -> int:
    """Return the maximum number of tasks in a batch of the stage. Raises ``ConfigurationError``.

    An asynchronous stage that takes tasks one by one has batches of one: none of its tasks waits for another.
    """
    size = 1 if stage.batch_size is None else stage.batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"stage {stage.name!r}: batch_size must be a whole number >= 1, got {size!r}")
    return 1 if is_async(stage) and not takes_batches(stage) else size


def sets_up_node(stage: StageLike) -> bool:
    """Return whether ``setup_on_node`` is the stage's own and does something. Only then is a process started for it."""
    return is_own_method(stage, "setup_on_node")


def is_own_method(stage: StageLike, name: str) -> bool:
    """Return whether a method is the stage's own and not that of a library's base class, which does nothing.

    ``setup`` and ``setup_on_node`` of Curator's filters load what the wrapped objects need. They do nothing where
    those have nothing to load.
    """
    if name in vars(stage):
        return True
    owner = next(cls for cls in type(stage).__mro__ if name in vars(cls))
    if is_base_class(owner):
        return False
    return owner.__module__ != _FILTERS_MODULE or name not in _LOADS or _wrapped_objects_load(stage, _LOADS[name])


def _wrapped_objects_load(stage: StageLike, loaders: tuple[str, ...]) -> bool:
    wrapped = [value for name in _WRAPPED if isinstance(value := getattr(stage, name, None), list)]
    objects = [item for values in wrapped for item in values]
    return not objects or any(hasattr(item, loader) for item in objects for loader in loaders)


def is_sink(stage: StageLike) -> bool:
    """Return whether the stage stores what it gets, so that the tasks it returns are of no further value.

    Its class declares ``is_sink_stage = True``: the same attribute of an instance says nothing, since every pipeline
    sets it on its last stage. Curator's writers declare tasks that list the files they have written.
    """
    if getattr(type(stage), "is_sink_stage", False):
        return True
    return is_curator_stage(stage) and _writes_files(type(stage))


def _writes_files(cls: type) -> bool:
    for base in (base for owner in cls.__mro__ for base in vars(owner).get("__orig_bases__", ())):
        arguments = get_args(base)
        if len(arguments) == _INPUT_AND_OUTPUT:
            takes, returns = (getattr(argument, "__name__", "") for argument in arguments)
            return returns == "FileGroupTask" and takes != "EmptyTask"  # what takes an EmptyTask lists files to read
    return False


def empty_task_for(stage: StageLike) -> Any:
    """Return the task that a run without initial tasks begins with, of the first stage's library."""
    if not is_curator_stage(stage):
        return EmptyTask()
    from nemo_curator.tasks import EmptyTask as CuratorEmptyTask

    return CuratorEmptyTask()


def _num_workers(stage: StageLike, name: str, asks: StageAsks) -> int | None:
    """Return the fixed number of workers. Raises ``ConfigurationError`` if the stage asks for one in several ways."""
    count, per_node = stage.num_workers(), _per_node(stage)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigurationError(f"stage {name!r}: num_workers() must return a whole number >= 1, got {count!r}")
    if per_node is not None:
        check_per_node(per_node, name)
    ways = {
        "num_workers()": count,
        "num_workers_per_node()": per_node,
        "xenna_stage_spec()['num_workers_per_node']": asks.workers_per_node,
        "min_workers, max_workers or initial_workers": asks.min_workers or asks.max_workers or asks.initial_workers,
    }
    used = [way for way, value in ways.items() if value is not None]
    if len(used) > 1:
        raise ConfigurationError(f"stage {name!r} asks for a number of workers by {' and by '.join(used)}: use one")
    per_node = asks.workers_per_node if per_node is None else per_node
    return count if per_node is None else max(1, math.ceil(per_node))


def _per_node(stage: StageLike) -> float | None:
    """Return ``num_workers_per_node()``. Stages of NeMo Curator 1.3 have no such method, and one has such a field."""
    method = getattr(stage, "num_workers_per_node", None)
    return method() if callable(method) else None
