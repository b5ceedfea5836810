"""Runs a stage on a batch: assigns ids, removes markers and records stats around the user's ``process_batch``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.perf import StagePerfStats, StageTimer
from gpuexec.contract.sentinels import NoneTask, TaskKind, kind_of
from gpuexec.contract.task import is_task
from gpuexec.errors import InvalidTask, StageContractError

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike, TaskLike

_TASK_TYPES: set[type] = set()  # checked already: checking a class costs more than the stats of a small batch


class StageAdapter(Protocol):
    """What calls a stage's methods: `BaseStageAdapter`, or Curator's own adapter for a Curator stage."""

    stage: Any
    last_stats: Any
    last_failed: list[str]

    def process_batch(self, tasks: list[Any]) -> list[Any]: ...
    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None: ...
    def setup(self, worker_metadata: Any) -> None: ...
    def teardown(self) -> None: ...


class BaseStageAdapter:
    """One stage in one worker.

    After each batch, ``last_stats`` holds its stats and ``last_failed`` the ids of the tasks that the stage
    returned as FailedTask.
    """

    def __init__(self, stage: StageLike) -> None:
        self.stage = stage
        self.last_stats: StagePerfStats | None = None
        self.last_failed: list[str] = []
        self._timer: StageTimer | None = None

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        """Process a batch. Return its outputs, with ids and stats, and without markers.

        Raises ``StageContractError`` when the stage returns anything but tasks, ``InvalidTask`` when a
        source stage returns a ``FailedTask``, and whatever the stage raises.
        """
        self.last_stats = None
        timer = self._timer = self._timer or StageTimer(self.stage)
        size = sum([task.num_items for task in tasks])
        timer.reinit(size)
        try:
            outputs = _as_tasks(self.stage.process_batch(tasks), self.stage.name)
        except BaseException:
            self.stage._consume_custom_metrics()  # else the next batch would have them
            raise
        timer.count(size)
        self._assign_ids(tasks, outputs)
        self.last_failed = []
        kinds = [kind_of(type(task)) for task in outputs]
        if any(kinds):
            outputs = self._without_markers(outputs, kinds)
        _, stats = timer.log_stats()
        metrics = self.stage._consume_custom_metrics()
        if metrics:
            stats.custom_metrics.update(metrics)
        for task in outputs:
            task.add_stage_perf(stats)
        self.last_stats = stats
        return outputs

    def setup_on_node(self, node_info: NodeInfo | None = None, worker_metadata: WorkerMetadata | None = None) -> None:
        """Prepare the node."""
        self.stage.setup_on_node(node_info, worker_metadata)

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:
        """Prepare the worker."""
        self.stage.setup(worker_metadata)

    def teardown(self) -> None:
        """Undo ``setup``."""
        self.stage.teardown()

    def _assign_ids(self, inputs: list[TaskLike], outputs: list[TaskLike]) -> None:
        """Give every output its path, or a random id where the outputs cannot be matched with the inputs."""
        if len(inputs) == 1:
            parent_id = inputs[0].task_id  # read once, since a stage may return its input
            for position, task in enumerate(outputs):
                task._set_task_id(parent_id, self._own_segment(task, position))
        elif len(inputs) == len(outputs):
            for parent_id, task in zip([task.task_id for task in inputs], outputs, strict=True):
                task._set_task_id(parent_id, self._own_segment(task, 0))
        else:
            for task in outputs:
                task.task_id = f"r{os.urandom(16).hex()}"

    def _own_segment(self, task: TaskLike, position: int) -> str | int:
        return (task.get_deterministic_id() or position) if self.stage.is_source_stage else position

    def _without_markers(self, outputs: list[Any], kinds: list[TaskKind]) -> list[Any]:
        self.last_failed = [task.task_id for task, kind in zip(outputs, kinds, strict=True) if kind is TaskKind.FAILED]
        if self.last_failed:
            self._report_failed(len(self.last_failed))
        return [task for task, kind in zip(outputs, kinds, strict=True) if kind is TaskKind.TASK]

    def _report_failed(self, count: int) -> None:
        if self.stage.is_source_stage:
            raise InvalidTask(f"Source stage {self.stage.name} emitted FailedTask, which is not supported.")
        from loguru import logger

        logger.warning(
            "stage {} returned {} task(s) of a batch as FailedTask; they are dropped", self.stage.name, count
        )


def _as_tasks(returned: Any, stage_name: str) -> list[Any]:
    if type(returned) is not list and (
        isinstance(returned, str | bytes | dict) or is_task(returned) or not isinstance(returned, Iterable)
    ):
        raise StageContractError(
            f"stage {stage_name!r}: process_batch() must return a list of tasks, got {type(returned).__name__}"
            + ("; wrap the one task in a list" if is_task(returned) else "")
            + ("; return [] if all tasks are dropped" if returned is None else "")
        )
    tasks = [NoneTask() if task is None else task for task in returned]
    for task in tasks:
        if type(task) not in _TASK_TYPES:
            if is_task(task):
                _TASK_TYPES.add(type(task))
                continue
            hint = " (the class, not an instance)" if isinstance(task, type) else ""
            raise StageContractError(
                f"stage {stage_name!r} returned a {type(task).__name__}{hint} instead of a Task: "
                "process() must return a Task, a list of Tasks, or None to drop the task"
            )
    return tasks
