"""The base of executors, and what a stage is told about the machine and the worker it runs in."""

from __future__ import annotations

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
    """

    def __init__(self, config: dict[str, Any] | None = None, ignore_head_node: bool = False) -> None:
        self.config = config or {}
        from_environment = os.environ.get(_IGNORE_HEAD_NODE, "").strip().lower() in {"1", "true", "yes"}
        self.ignore_head_node = ignore_head_node or from_environment

    @abstractmethod
    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any] | None:
        """Run the stages, in order, and return the last one's tasks."""


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
