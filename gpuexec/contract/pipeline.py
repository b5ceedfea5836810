"""Pipelines: stages in order."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuexec.contract.executor import BaseExecutor, execute_with_checkpoint, iterate_with_checkpoint
from gpuexec.contract.pipeline_name import pipeline_named
from gpuexec.contract.sentinels import EmptyTask
from gpuexec.contract.stage import is_stage
from gpuexec.contract.task import is_task
from gpuexec.errors import ConfigurationError, StageContractError


class Pipeline:
    """Named stages, run by an executor."""

    def __init__(
        self,
        name: str,
        description: str | None = None,
        stages: list[Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.description = description
        if isinstance(stages, type | str) or not isinstance(stages, Iterable | None):
            raise StageContractError(
                f"Pipeline {name!r}: stages must be a list, got {stages!r}; put a single stage into a list"
            )
        self.stages: list[Any] = list(stages or ()) if not isinstance(stages, list) else stages
        self.config = config or {}
        self.decomposition_info: dict[str, list[str]] = {}

    def add_stage(self, stage: Any) -> Pipeline:
        """Append a stage and return the pipeline. Raises ``StageContractError`` for anything that is not a stage."""
        if not is_stage(stage):
            raise StageContractError(_not_a_stage(stage))
        self.stages.append(stage)
        return self

    def build(self) -> None:
        """Replace composite stages with the stages they decompose into, and determine the source and the sink stage.

        Safe to repeat. Raises ``ConfigurationError`` without stages or with several sources or sinks,
        ``StageContractError`` for a composite in a composite.
        """
        if not self.stages:
            raise ConfigurationError(f"Pipeline {self.name!r} has no stages: add_stage() first")
        stages: list[Any] = []
        for stage in self.stages:
            if isinstance(stage, type):
                raise StageContractError(_not_a_stage(stage))
            if _is_composite(stage):
                parts = _decomposed(stage)
                self.decomposition_info[stage.name] = [part.name for part in parts]
                stages += parts
            else:
                stages.append(stage)
        _assign_role(stages, "is_source_stage", default=0)
        _assign_role(stages, "is_sink_stage", default=-1)
        self.stages = stages

    def describe(self) -> str:
        """Return a description of each stage: its resources, inputs and outputs."""
        lines = [
            f"Pipeline: {self.name}",
            f"Description: {self.description or 'No description provided'}",
            f"Stages: {len(self.stages)}",
            "",
        ]
        for number, stage in enumerate(self.stages, start=1):
            lines.append(f"Stage {number}: {stage.name}")
            try:
                lines += _description(stage)
            except Exception as error:  # noqa: BLE001 - a stage's inputs() may raise anything
                lines.append(f"  Error getting stage info: {error}")
        return "\n".join([*lines, ""])

    def run(
        self,
        executor: BaseExecutor | Any | None = None,
        initial_tasks: Sequence[Any] | None = None,
        checkpoint_path: str | Path | None = None,
    ) -> list[Any] | None:
        """Build the pipeline, run it (on a ``LocalExecutor`` by default) and return the tasks.

        ``initial_tasks`` get the ids ``0_0``, ``0_1``, …. Without them, the first stage gets one ``EmptyTask``.
        ``checkpoint_path``: a folder in which finished sources are recorded, so that a later run skips them
        (see ``gpuexec.checkpoint``). Raises what the executor raises.
        """
        self.build()
        _check_executor(executor)
        if executor is None:
            executor = importlib.import_module("gpuexec.executors.local").LocalExecutor()
        if isinstance(initial_tasks, Sequence):
            for position, task in enumerate(initial_tasks):
                if is_task(task) and not isinstance(task, EmptyTask):  # the executor refuses anything else
                    task._set_task_id("0", position)
        with pipeline_named(self.name):
            if checkpoint_path is None:
                tasks: list[Any] | None = executor.execute(self.stages, initial_tasks)
                return tasks
            return execute_with_checkpoint(executor, self.stages, initial_tasks, checkpoint_path)

    def run_iter(
        self,
        executor: Any = None,
        initial_tasks: Iterable[Any] | None = None,
        checkpoint_path: str | Path | None = None,
    ) -> Generator[Any, None, None]:
        """Build the pipeline, run it (on a ``LocalExecutor`` by default) and yield its tasks as they are finished.

        ``initial_tasks`` may be an iterator that never ends. ``checkpoint_path``: as for `run`; a source is done once
        its tasks have been taken, or stored by a declared sink. See ``LocalExecutor.execute_iter``. Raises
        ``ConfigurationError`` for an executor that yields no tasks, or keeps no checkpoints.
        """
        self.build()
        _check_executor(executor)
        if executor is None:
            executor = importlib.import_module("gpuexec.executors.local").LocalExecutor()
        if not callable(getattr(executor, "execute_iter", None)):
            raise ConfigurationError(f"{type(executor).__name__} has no execute_iter(): use run(), or LocalExecutor")
        with pipeline_named(self.name):
            if checkpoint_path is not None:
                return iterate_with_checkpoint(executor, self.stages, initial_tasks, checkpoint_path)
            tasks: Generator[Any, None, None] = executor.execute_iter(self.stages, initial_tasks)
        return tasks

    def __repr__(self) -> str:
        stages = ", ".join(f"{stage.name}({type(stage).__name__})" for stage in self.stages)
        return f"Pipeline(name={self.name!r}, stages=[{stages}])"


def _not_a_stage(value: Any) -> str:
    hint = f": write {value.__name__}(…), an instance of the class" if isinstance(value, type) else ""
    return f"Stage must be a ProcessingStage, got {value!r}{hint}"


def _check_executor(executor: Any) -> None:
    """Refuse what is not an executor. Raises ``ConfigurationError``."""
    if isinstance(executor, type):
        raise ConfigurationError(
            f"run() takes an executor, got the class {executor.__name__}: write {executor.__name__}()"
        )
    if executor is not None and not callable(getattr(executor, "execute", None)):
        raise ConfigurationError(
            f"run() takes an executor first, such as LocalExecutor(), got {executor!r}; "
            "tasks are given as initial_tasks=[…]"
        )


def _is_composite(stage: Any) -> bool:
    return callable(getattr(stage, "decompose_and_apply_with", None))  # of any library: the method is the contract


def _decomposed(stage: Any) -> list[Any]:
    parts: list[Any] = stage.decompose_and_apply_with()
    for part in parts:
        if _is_composite(part):
            raise StageContractError(
                f"Composite stage {stage.name!r} decomposed into another composite stage {part.name!r}. "
                "Nested composition is not supported: let decompose() return the inner stages."
            )
    return parts


def _assign_role(stages: list[Any], flag: str, *, default: int) -> None:
    marked = [stage.name for stage in stages if getattr(stage, flag)]
    if len(marked) > 1:
        role = "source" if flag == "is_source_stage" else "sink"
        raise ConfigurationError(f"Pipeline has multiple {role} stages marked: {marked}. At most one is supported.")
    if not marked:
        setattr(stages[default], flag, True)


def _description(stage: Any) -> Iterator[str]:
    specs, (attributes, columns) = stage.inputs(), stage.outputs()
    yield f"  Resources: {stage.resources.cpus} CPUs"
    if stage.resources.requires_gpu:
        yield f"    GPU Memory: {stage.resources.gpu_memory_gb} GB ({stage.resources.gpus} GPUs)"
    yield f"  Batch size: {stage.batch_size}"
    needed = list(_needed(specs))
    if needed:
        yield "  Inputs:"
        yield from needed
    if attributes or columns:
        yield "  Outputs:"
    if attributes:
        yield f"    Output attributes: {', '.join(attributes)}"
    if columns:
        yield f"    Output columns: {', '.join(columns)}"


def _needed(specs: Any) -> Iterator[str]:
    by_type = (
        [("", "    ", specs)]
        if isinstance(specs, tuple)
        else [(f"    {cls.__name__}:", "      ", spec) for cls, spec in specs.items()]
    )
    for heading, indent, (attributes, columns) in by_type:
        if heading and (attributes or columns):
            yield heading
        if attributes:
            yield f"{indent}Required attributes: {', '.join(attributes)}"
        if columns:
            yield f"{indent}Required columns: {', '.join(columns)}"
