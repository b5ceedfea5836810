"""The Ray Data pipeline of some stages: how blocks of tasks go through tasks and actors."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from gpuexec.executors.ray.rows import Key, table_of
from gpuexec.executors.ray.stage_worker import StageWork, actor_class, task_function
from gpuexec.planning.cluster import StageOnCluster
from gpuexec.records import Record

BLOCKS_PER_CPU = 16  # of the initial tasks: the last ones to finish hold the others up by a sixteenth at most


class StageOnRay(Record):
    """A stage as Ray Data runs it. ``fans_out``: its outputs are spread over the nodes at once.

    ``remote_args``: the stage's own arguments for Ray.
    """

    work: StageWork
    planned: StageOnCluster
    fans_out: bool
    remote_args: dict[str, Any]


@contextlib.contextmanager
def quiet_context() -> Iterator[None]:
    """Make Ray Data say in the block only what gpuexec does not say better. The program's own context stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to copy the context sets each field, also the old ones
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    logger = logging.getLogger("ray.data")
    level = logger.level
    with DataContext.current(context):
        logger.setLevel(logging.CRITICAL)  # a failure is told by the exception that gpuexec raises
        try:
            yield
        finally:
            logger.setLevel(level)


def dataset_of(rows: Sequence[tuple[Key, bytes]], batch_size: int, cpus: float, tasks_per_block: int | None) -> Any:
    """Return the initial tasks as a dataset, in blocks of whole batches."""
    size = rows_per_block(batch_size, tasks_per_block or _share(len(rows), cpus))
    return ray.data.from_arrow([table_of(rows[start : start + size]) for start in range(0, len(rows), size)])


def dataset_between(refs: Sequence[Any], count: int, batch_size: int, cpus: float, tasks_per_block: int | None) -> Any:
    """Return tasks that are in the object store as a dataset. ``count``: how many they are."""
    if not count:
        return ray.data.from_arrow([table_of([])])
    size = rows_per_block(batch_size, tasks_per_block or _share(count, cpus))
    return ray.data.from_arrow_refs(list(refs)).repartition(target_num_rows_per_block=size)


def _share(count: int, cpus: float) -> int:
    return math.ceil(count / max(1.0, BLOCKS_PER_CPU * cpus))


def rows_per_block(batch_size: int, wanted: int) -> int:
    """Return the number of rows of a block for a stage: ``wanted``, rounded up to whole batches."""
    return batch_size * max(1, math.ceil(wanted / batch_size))


def apply_stages(dataset: Any, stages: Sequence[StageOnRay], ledger: Any, tasks_per_block: int) -> Any:
    """Return the dataset with these stages after it."""
    for position, stage in enumerate(stages):
        dataset = _apply(dataset, stage, ledger, tasks_per_block)
        if stage.fans_out and position + 1 < len(stages):
            following = rows_per_block(stages[position + 1].work.rules.batch_size, tasks_per_block)
            dataset = dataset.repartition(target_num_rows_per_block=following)
    return dataset


def _apply(dataset: Any, stage: StageOnRay, ledger: Any, tasks_per_block: int) -> Any:
    work, planned = stage.work, stage.planned
    options: dict[str, Any] = {"num_cpus": planned.cpus, **stage.remote_args}
    if planned.uses_actors:
        function: Any = actor_class(work)
        options["fn_constructor_args"] = (work, ledger)
        options["compute"] = _pool(planned)
        if planned.gpus:
            options["num_gpus"] = planned.gpus
    else:
        function = task_function(work, ledger)
        if planned.at_most is not None:
            options["compute"] = TaskPoolStrategy(size=planned.at_most)
    size = rows_per_block(work.rules.batch_size, tasks_per_block)
    # With a size, Ray Data joins blocks until they have so many rows, and asks for one where there is a GPU. Batches of
    # one need no joining, and without a size the stage is called once for each block.
    joins = size > 1 or bool(planned.gpus)
    return dataset.map_batches(
        function, batch_size=size if joins else None, batch_format="pyarrow", zero_copy_batch=True, **options
    )


def _pool(planned: StageOnCluster) -> ActorPoolStrategy:
    if planned.at_least == planned.at_most:
        return ActorPoolStrategy(size=planned.at_least)
    first = min(max(planned.at_first, planned.at_least), planned.at_most or planned.at_first)
    return ActorPoolStrategy(min_size=planned.at_least, max_size=planned.at_most, initial_size=first)
