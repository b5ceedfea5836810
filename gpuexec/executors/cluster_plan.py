"""``gpuexec plan --cluster``: what a run of `RayExecutor` would put where, without starting anything."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError
from gpuexec.executors.checks import check_call
from gpuexec.executors.ray.meanings import check_options
from gpuexec.executors.ray.sizing import sizings_of
from gpuexec.executors.stage_options import check_stage_options
from gpuexec.planning.cluster import ClusterNode, ClusterPlan, StageOnCluster, plan_cluster
from gpuexec.planning.cluster_text import nodes_from_json, nodes_from_shape
from gpuexec.units import GIB

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_NODES_SHOWN = 4  # of a stage, or kinds of nodes


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A plan for a cluster, as tables or as JSON values."""

    plan: ClusterPlan

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values: ``nodes``, ``phases``, ``misfits`` and ``notes``."""
        return {
            "nodes": [dataclasses.asdict(node) for node in self.plan.nodes],
            "phases": [[_stage_to_dict(stage) for stage in phase] for phase in self.plan.phases],
            "misfits": list(self.plan.misfits),
            "notes": list(self.plan.notes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        yield Text(_in_words(self.plan.nodes))
        for number, phase in enumerate(self.plan.phases, start=1):
            title = f"phase {number} of {len(self.plan.phases)}" if len(self.plan.phases) > 1 else None
            table = Table(
                "stage", "workers", "CPUs", "GPUs", "for example on", "why", title=title, title_justify="left"
            )
            for stage in phase:
                table.add_row(
                    Text(stage.name), _workers(stage), f"{stage.cpus:g}", f"{stage.gpus:g}", _where(stage), stage.reason
                )
            yield table
        for note in self.plan.notes:
            yield Text(f"note: {note}")
        for misfit in self.plan.misfits:
            yield Text(f"does not fit: {misfit}", style="red")


def plan_on_cluster(pipeline: Any, nodes: Sequence[ClusterNode], options: ExecutorConfig) -> ClusterView:
    """Return what would go where. Raises ``ConfigurationError`` for stages or options that no run would take."""
    check_options(options)
    if callable(getattr(pipeline, "build", None)):
        pipeline.build()
    stages = getattr(pipeline, "stages", pipeline)
    check_call(stages)
    check_stage_options(stages, options)
    return ClusterView(plan_cluster(sizings_of(stages, len(nodes)), nodes))


def read_cluster(text: str) -> tuple[ClusterNode, ...]:
    """Return the nodes that ``text`` names: a shape such as ``4x8gpu-80GB``, a JSON file, or a cluster's address.

    Raises ``ConfigurationError``.
    """
    shape = nodes_from_shape(text)
    if shape is not None:
        return shape
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        try:
            return nodes_from_json(json.loads(path.read_text()))
        except OSError as error:
            raise ConfigurationError(f"--cluster {text}: {error.strerror}") from error
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"--cluster {text} is not JSON: {error}") from error
    if text != "auto" and ":" not in text:
        raise ConfigurationError(
            f"--cluster {text!r} is none of: a shape such as 4x8gpu or 4x8gpu-80GB-64cpu, a file nodes.json, the "
            "address of a cluster's head such as 10.0.0.1:6379, or auto for the cluster that runs here"
        )
    from gpuexec.executors.ray.connection import connected

    with connected(text, ExecutorConfig()):
        from gpuexec.executors.ray.nodes import read_nodes

        return tuple(each.node for each in read_nodes())


def _stage_to_dict(stage: StageOnCluster) -> dict[str, Any]:
    fields = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    return {**fields, "nodes": [{"name": name, "workers": count} for name, count in stage.nodes]}


def _in_words(nodes: Sequence[ClusterNode]) -> str:
    kinds: dict[tuple[float, int, int | None], int] = {}
    for node in nodes:
        kind = (node.cpus, node.gpus, node.gpu_memory_bytes)
        kinds[kind] = kinds.get(kind, 0) + 1
    parts = []
    for (cpus, gpus, memory), count in list(kinds.items())[:_NODES_SHOWN]:
        size = f" of {memory / GIB:g} GiB" if memory else ""
        parts.append(f"{count} × ({cpus:g} CPUs, {gpus} GPU(s){size})")
    more = len(kinds) - _NODES_SHOWN
    return f"{len(nodes)} node(s): " + ", ".join(parts) + (f" and {more} other kinds" if more > 0 else "")


def _workers(stage: StageOnCluster) -> str:
    if not stage.uses_actors:
        return "tasks" if stage.at_most is None else f"{stage.at_most} tasks"
    if stage.at_least == stage.at_most:
        return str(stage.at_least)
    return f"{stage.at_least} to {stage.at_most}, first {stage.at_first}"


def _where(stage: StageOnCluster) -> str:
    if not stage.uses_actors:
        return "any node"
    shown = ", ".join(f"{name}: {count}" for name, count in stage.nodes[:_NODES_SHOWN])
    more = len(stage.nodes) - _NODES_SHOWN
    return shown + (f" and {more} more nodes" if more > 0 else "")
