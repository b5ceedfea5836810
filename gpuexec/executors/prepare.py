"""What both executors do before anything runs: check the pipeline, read the node, make the plan."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.task import is_task
from gpuexec.curator import stage_facts
from gpuexec.errors import ConfigurationError, GpusBusy
from gpuexec.hardware import host, inventory, visible_devices
from gpuexec.hardware.model import Node
from gpuexec.hardware.visible_devices import VARIABLE, VisibleDevices
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import Plan, PlanOptions, StageDemand
from gpuexec.plan.planner import make_allocator, plan_in
from gpuexec.policies import BusyGpuPolicy
from gpuexec.stage import loading

_BUSY_POLL_S = 2.0  # NVML has no event for freed memory


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked pipeline and where it will run. ``room``: what later plans of the same run have to share."""

    stages: tuple[Any, ...]
    demands: tuple[StageDemand, ...]
    node: Node
    plan: Plan
    room: Allocator


def check_stages(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` for what no executor can run."""
    if not stages:
        raise ConfigurationError(
            "there are no stages to run: give execute() a list of stages, or add_stage() to the pipeline"
        )
    for position, stage in enumerate(stages):
        if isinstance(stage, type) or not callable(getattr(stage, "process_batch", None)):
            raise ConfigurationError(
                f"stage {position} is {stage!r}, not a ProcessingStage (was the class passed instead of an instance?)"
                if isinstance(stage, type)
                else f"stage {position} is a {type(stage).__name__}, not a ProcessingStage"
            )


def _refuse_run_on_import() -> None:
    """A worker that imports its stage's module must not start the module's own run, which would never end."""
    if loading.in_progress:
        raise ConfigurationError(
            "the module that defines the stage starts a run when it is imported: "
            "put that run under `if __name__ == '__main__':`"
        )


def prepare(
    stages: Sequence[Any],
    config: ExecutorConfig,
    environ: Mapping[str, str] = os.environ,
    node: Node | None = None,
) -> Prepared:
    """Check the stages and plan them on this node (or on ``node``, e.g. read from a file).

    GPUs are looked at only if a stage asks for one. Another node's are not cut by our environment.
    Raises ``ConfigurationError`` and ``ResourcesError``.
    """
    _refuse_run_on_import()
    check_stages(stages)
    demands = tuple(stage_facts.demand_of(stage) for stage in stages)
    looks_at_gpus = config.cpu_stages_see_gpus or any(d.gpus or d.gpu_memory_gb for d in demands)
    deadline = time.monotonic() + config.busy_gpu_timeout_s
    given = node
    while True:
        node = given or (inventory.read_node() if looks_at_gpus else Node(host=host.read_host()))
        if config.cpus is not None:
            node = dataclasses.replace(node, host=dataclasses.replace(node.host, granted_cpus=config.cpus))
        visible = (
            visible_devices.select(node.gpus, environ if given is None else {}) if looks_at_gpus else VisibleDevices(())
        )
        try:
            room, notes = make_allocator(
                demands,
                visible.devices,
                node,
                _options(config),
                no_devices_reason=_why_no_devices(node, environ, visible, ours=given is None),
                device_notes=visible.notes,
            )
        except GpusBusy:
            if given is not None or time.monotonic() >= deadline:
                raise
            time.sleep(min(_BUSY_POLL_S, max(0.0, deadline - time.monotonic())))
        else:
            return Prepared(tuple(stages), demands, node, plan_in(room, notes), room)


def _why_no_devices(node: Node, environ: Mapping[str, str], visible: VisibleDevices, *, ours: bool) -> str | None:
    if visible.devices:
        return None
    if ours and VARIABLE in environ and node.gpus:
        value = environ[VARIABLE]
        notes = "; ".join(visible.notes)
        return (
            f"{VARIABLE}={value!r} selects none of the node's {len(node.gpus)} GPU(s)"
            + (f" ({notes})" if notes else "")
            + "; unset it or name a GPU as `gpuexec gpus` lists them"
        )
    return node.no_gpus_reason or "; ".join(visible.notes) or "the node has no usable GPU"


def _options(config: ExecutorConfig) -> PlanOptions:
    return PlanOptions(
        reserved_cpus=config.reserved_cpus,
        reserved_gpus=config.reserved_gpus,
        busy_gpus=BusyGpuPolicy(config.busy_gpus),
        busy_memory_fraction=config.busy_gpu_memory_fraction,
        cpu_stages_see_gpus=config.cpu_stages_see_gpus,
    )


def initial_tasks_for(stages: Sequence[Any], initial_tasks: Sequence[Any] | None) -> Sequence[Any]:
    """The tasks a run begins with: the caller's, or one EmptyTask as Curator does (also for an empty list).

    Raises ``ConfigurationError`` for what is no task.
    """
    if initial_tasks is not None and not isinstance(initial_tasks, Sequence):
        raise ConfigurationError(
            f"initial_tasks must be a list of tasks, got {type(initial_tasks).__name__}; "
            "for an iterator, use run_iter() or execute_iter()"
        )
    if initial_tasks:
        for position, task in enumerate(initial_tasks):
            _checked_task(task, position)
        return initial_tasks
    if initial_tasks is not None:
        from loguru import logger

        logger.warning(
            "initial_tasks is an empty list: as in NeMo Curator, the first stage is run once, with an EmptyTask. "
            "If there is nothing to do, do not call run()."
        )
    return [stage_facts.empty_task_for(stages[0])]


def checked_tasks(initial_tasks: Iterable[Any]) -> Iterator[Any]:
    """The caller's tasks, checked as they are taken."""
    for position, task in enumerate(initial_tasks):
        yield _checked_task(task, position)


def _checked_task(task: Any, position: int) -> Any:
    if not is_task(task):
        raise ConfigurationError(f"initial task {position} is {task!r}, not a Task")
    if not task.task_id:  # Pipeline.run has given them; whoever calls execute() may not
        task._set_task_id("0", position)
    return task


def env_vars_in(runtime_env: Mapping[str, Any] | None) -> dict[str, str]:
    """The variables that a Ray-style runtime environment sets."""
    return {key: str(value) for key, value in ((runtime_env or {}).get("env_vars") or {}).items()}
