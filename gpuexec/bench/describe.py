"""Says, in a process of its own, what a target is and which points a sweep of it has. Nothing is run.

The command's own process never imports the target: its modules may take long to import, or take hold of a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuexec.bench.apply import RESOURCES, Today, apply, executor_options
from gpuexec.bench.model import Goal, Point
from gpuexec.bench.space import Part, changes_of, listed_points, name_of, points_of
from gpuexec.bench.trial import LoadedTarget, Spec
from gpuexec.config import ExecutorConfig
from gpuexec.curator import stage_facts
from gpuexec.errors import ConfigurationError, GpuexecError


def describe(spec: Spec) -> dict[str, Any]:
    """Return what a sweep begins with: its points, what is varied, what that is today, the node, versions and stages.

    With ``plans``: also what each point would start, or why the planner refuses it. Instead of all that, ``error``:
    what is wrong, as text; ``is_caller``: with the request, and not with the target.
    """
    try:
        return _description(spec)
    except GpuexecError as error:
        return {"error": str(error), "is_caller": isinstance(error, ConfigurationError)}
    except Exception as error:  # noqa: BLE001 - whatever the target raises
        import traceback

        from gpuexec.stage.brief_traceback import brief_traceback

        what = brief_traceback(error) or traceback.format_exc()
        return {"error": f"{spec['target']} could not be loaded:\n{what}", "is_caller": False}


def _description(spec: Spec) -> dict[str, Any]:
    from gpuexec.executors.run_facts import versions

    target = LoadedTarget(spec)
    pipeline = target.pipeline(spec["arguments"])
    today = Today(target.value, pipeline, spec["arguments"], spec["options"])
    names = dict.fromkeys([*spec["vary"], *(name for settings in spec["points"] for name in settings)])
    todays = {name: today.value(name) for name in names}
    listed = [{name: today.read(name, value) for name, value in settings.items()} for settings in spec["points"]]
    varied = {
        name: [today.read(name, value) for value in spec["vary"][name]]
        if name in spec["vary"]
        else [settings[name] for settings in listed if name in settings]
        for name in names
    }
    _check_options(spec["options"], varied)
    _check_goal(Goal(spec["goal"]), pipeline, varied)
    points = listed_points(listed, todays) if listed else points_of(varied, todays)
    return {
        "pipeline": str(getattr(pipeline, "name", "pipeline")),
        "stages": [str(stage.name) for stage in pipeline.stages],
        "points": [{"id": point.id, "settings": dict(point.settings)} for point in points],
        "varied": varied,
        "today": todays,
        "fields": [name for name in names if today.is_field(name)],
        "node": _node(),
        "versions": versions(),
        "plans": {point.id: _plan(spec, target, point) for point in points} if spec.get("plans") else {},
    }


def _check_options(options: Mapping[str, Any], varied: Mapping[str, list[Any]]) -> None:
    for text, values in varied.items():
        name = name_of(text)
        if name.part is Part.OPTION:
            for value in values:
                ExecutorConfig.create({**options, name.key: value})


def _check_goal(goal: Goal, pipeline: Any, varied: Mapping[str, list[Any]]) -> None:
    """Raise ``ConfigurationError`` if joules are asked for and no point can have any."""
    if goal is not Goal.JOULES:
        return
    demands = [stage_facts.demand_of(stage) for stage in pipeline.stages]
    names = [name_of(text) for text in varied]
    may_use_gpus = any(name.part is Part.ARGUMENT or name.key in RESOURCES[1:] for name in names)
    if not may_use_gpus and not any(demand.gpus or demand.gpu_memory_gb for demand in demands):
        raise ConfigurationError(
            "--goal joules: no stage asks for a GPU, and the energy of GPUs is what is measured; choose another goal"
        )


def _plan(spec: Spec, target: LoadedTarget, point: Point) -> dict[str, Any]:
    """Return the workers that a point would start, by stage, or why it would be refused."""
    import gpuexec

    changes = changes_of(point.settings)
    try:
        pipeline = target.pipeline({**spec["arguments"], **changes.arguments})
        options = executor_options(spec["options"], changes, apply(pipeline, changes.stages))
        planned = gpuexec.plan(pipeline, config=options)
    except Exception as error:  # noqa: BLE001 - constructors and with_() may raise anything
        return {"refused": str(error)}
    stages = [stage for phase in planned.plan.phases for stage in phase.stages]
    return {"phases": len(planned.plan.phases), "workers": {stage.name: len(stage.workers) for stage in stages}}


def _node() -> dict[str, Any]:
    import os

    from gpuexec.hardware.inventory import read_node

    system, node = os.uname(), read_node()
    return {
        "hostname": system.nodename,
        "cpus": len(node.host.cpus),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "platform": f"{system.sysname} {system.machine}",
        "kernel": system.release,
        "gpus": [
            {"index": gpu.index, "name": gpu.name, "uuid": gpu.uuid, "memory_bytes": gpu.memory_total_bytes}
            for gpu in node.gpus
        ],
    }
