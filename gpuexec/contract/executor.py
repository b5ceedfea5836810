"""The base of executors, and what a stage is told about the machine and the worker it runs in."""

from __future__ import annotations

import importlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpuexec.errors import ConfigurationError

_IGNORE_HEAD_NODE = "CURATOR_IGNORE_RAY_HEAD_NODE"


@dataclass
class NodeInfo:
    """The machine; ``node_id`` is its hostname."""

    node_id: str = ""


@dataclass
class WorkerMetadata:
    """One worker: ``worker_id`` is ``"<stage>-<n>"``, ``allocation`` an ``Allocation`` (or ``None``)."""

    worker_id: str = ""
    allocation: Any = None


class BaseExecutor(ABC):
    """Runs the stages of a pipeline.

    ``config`` is the mapping of options that the executor was given. ``ignore_head_node`` is also set by the
    environment variable CURATOR_IGNORE_RAY_HEAD_NODE (1, true or yes); only executors of more than one node use it.

    NeMo Curator's pipeline calls ``_set_stage_perf_collection_requested`` before a run and
    ``consume_external_perf_records`` after it, if one of its stages reports on how the stages performed.
    ``_supports_stage_perf_collection``: whether this executor has such records.
    """

    _supports_stage_perf_collection = False

    def __init__(self, config: dict[str, Any] | None = None, ignore_head_node: bool = False) -> None:
        self.config = config or {}
        from_environment = os.environ.get(_IGNORE_HEAD_NODE, "").strip().lower() in {"1", "true", "yes"}
        self.ignore_head_node = ignore_head_node or from_environment
        self._stage_perf_collection_requested = False
        self._external_perf_records: Any = None

    @abstractmethod
    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any] | None:
        """Run the stages, in order, and return the last one's tasks."""

    def _set_stage_perf_collection_requested(self, requested: bool) -> None:
        """Have the next runs record each call of a stage, or not. Raises ``NotImplementedError`` if they cannot."""
        if requested and not self._supports_stage_perf_collection:
            raise NotImplementedError(f"{type(self).__name__} does not record each call of a stage")
        self._stage_perf_collection_requested = requested

    def consume_external_perf_records(self) -> Any:
        """Return the records of the latest run, and forget them: one for each call of a stage that went through.

        It has ``len()``, ``iter_dicts()`` and ``cleanup()``; a record has stage_name, stage_id, invocation_id,
        process_time, actor_idle_time, num_items_processed, custom_metrics, window_start_s and window_end_s (POSIX).
        """
        records, self._external_perf_records = self._external_perf_records, None
        if records is None:
            records = importlib.import_module("gpuexec.curator.perf_records").empty_records()
        return records


def execute_with_checkpoint(
    executor: BaseExecutor,
    stages: Sequence[Any],
    initial_tasks: Sequence[Any] | None,
    folder: str | os.PathLike[str],
    **more: Any,
) -> list[Any] | None:
    """Run the stages with a checkpoint. Raises ``ConfigurationError`` if the executor keeps none."""
    _check_keeps_checkpoints(executor, executor.execute, folder)
    tasks: list[Any] | None = cast(Any, executor).execute(stages, initial_tasks, checkpoint=folder, **more)
    return tasks


def iterate_with_checkpoint(
    executor: Any, stages: Sequence[Any], initial_tasks: Iterable[Any] | None, folder: str | os.PathLike[str]
) -> Generator[Any, None, None]:
    """Run the stages with a checkpoint and yield the tasks.

    Raises ``ConfigurationError`` if the executor keeps none.
    """
    _check_keeps_checkpoints(executor, executor.execute_iter, folder)
    tasks: Generator[Any, None, None] = executor.execute_iter(stages, initial_tasks, checkpoint=folder)
    return tasks


def _check_keeps_checkpoints(executor: Any, method: Callable[..., Any], folder: str | os.PathLike[str]) -> None:
    if "checkpoint" not in inspect.signature(method).parameters:
        raise ConfigurationError(
            f"checkpoint_path={str(folder)!r}: {type(executor).__name__} keeps no checkpoints; "
            "run on LocalExecutor, or leave it out"
        )
