"""``gpuexec.plan``: which workers a run would have, and why, without starting any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gpuexec.config import ExecutorConfig
from gpuexec.curator import registration
from gpuexec.curator.stage_specs import asks_of
from gpuexec.executors.checks import check_call
from gpuexec.executors.prepare import prepare
from gpuexec.executors.shard_option import with_shard
from gpuexec.executors.sharding import sharding_of
from gpuexec.executors.stage_options import user_options
from gpuexec.hardware.inventory import node_to_json
from gpuexec.hardware.model import Node
from gpuexec.planning.fusion import Group
from gpuexec.planning.model import Plan, StagePlan

if TYPE_CHECKING:
    from typing import Unpack

    from rich.console import Console, ConsoleOptions, RenderableType

    from gpuexec.options import LocalOptions

_TEXT_COLUMNS = 120


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The workers that a run would have on a node, and why. ``print()`` shows it as tables.

    ``stage_names``: of all stages, in their order. ``groups``: which of them share their workers. ``stage_options``:
    the options that single stages have of their own, by the stage's name. ``stage_specs``: what stages ask for in
    their ``ray_stage_spec`` and ``xenna_stage_spec``, and what it becomes, as texts. ``shard``: see the option, and
    ``shard_note``: what is cut to it.
    """

    plan: Plan
    node: Node
    stage_names: tuple[str, ...]
    groups: tuple[Group, ...]
    stage_options: Mapping[str, Mapping[str, Any]]
    stage_specs: Mapping[str, tuple[str, ...]]
    shard: str | None = None
    shard_note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values: ``node``, ``phases`` with the stages and the grants of their workers, and
        ``notes``. docs/python.md describes the fields."""
        why_separate = {group.stages[0]: group.why_separate for group in self.groups}
        return {
            "node": node_to_json(self.node),
            "phases": [
                {"stages": [self._stage_to_dict(stage, why_separate[stage.stage_index]) for stage in phase.stages]}
                for phase in self.plan.phases
            ],
            "stage_options": {name: _json_values(options) for name, options in self.stage_options.items()},
            "stage_specs": {name: list(honoured) for name, honoured in self.stage_specs.items()},
            "shard": self.shard,
            "notes": [*self.plan.notes, *(() if self.shard_note is None else (self.shard_note,))],
        }

    def _stage_to_dict(self, stage: StagePlan, why_separate: str | None) -> dict[str, Any]:
        return {
            "stage_index": stage.stage_index,
            "name": stage.name,
            "fused": [{"stage_index": index, "name": self.stage_names[index]} for index in stage.fused],
            "why_separate": why_separate,
            "reason": stage.reason,
            "has_fixed_count": stage.has_fixed_count,
            "workers": [
                {
                    "worker_id": grant.worker_id,
                    **grant.allocation.to_dict(),
                    "gpus": [dataclasses.asdict(share) for share in grant.allocation.gpus],
                    "cpu_affinity": list(grant.cpu_affinity),
                }
                for grant in stage.workers
            ],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        from gpuexec.executors.plan_view import render_plan

        yield from render_plan(self.plan, self.node, self.stage_names, self.groups)
        if self.shard_note is not None:
            yield Text(self.shard_note)
        for name, own in self.stage_options.items():
            shown = ", ".join(f"{option}={value!r}" for option, value in own.items())
            yield Text(f"stage {name!r}, options of its own: {shown}")
        for name, honoured in self.stage_specs.items():
            yield Text(f"stage {name!r} asks for {'; '.join(honoured)}")

    def __str__(self) -> str:
        import io

        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=_TEXT_COLUMNS, color_system=None).print(self)
        return text.getvalue().rstrip("\n")


def plan(
    pipeline: Any, *, config: Mapping[str, Any] | None = None, node: Node | None = None, **options: Unpack[LocalOptions]
) -> RunPlan:
    """Return the workers that a run of a pipeline would have, and why. Nothing is started, and nothing is leased.

    ``pipeline``: a ``Pipeline``, which is built, or a sequence of stages. ``config`` and ``options``: those of
    ``LocalExecutor``, as a mapping, as keywords, or both. ``node``: the node to plan for, instead of this machine.

    Raises ``ConfigurationError`` for stages or options that no run would take, and ``ResourcesError`` if the node
    cannot do what they ask for.
    """
    registration.install()
    checked = ExecutorConfig.create(config, **cast(dict[str, Any], options))
    if callable(getattr(pipeline, "build", None)):
        pipeline.build()
        stages: Sequence[Any] = pipeline.stages
    else:
        stages = pipeline
    check_call(stages)
    checked = with_shard(checked, stages)
    prepared = prepare(stages, checked, node=node, fuses=True, has_checkpoint=checked.checkpoint is not None)
    own = {demand.name: user_options(stage, checked) for stage, demand in zip(stages, prepared.demands, strict=True)}
    asked = {demand.name: asks_of(stage).honoured for stage, demand in zip(stages, prepared.demands, strict=True)}
    return RunPlan(
        plan=prepared.plan,
        node=prepared.node,
        stage_names=tuple(demand.name for demand in prepared.demands),
        groups=prepared.groups,
        stage_options={name: options for name, options in own.items() if options},
        stage_specs={name: honoured for name, honoured in asked.items() if honoured},
        shard=checked.shard,
        shard_note=sharding_of(checked, stages, has_initial_tasks=False).describe(stages, checked.checkpoint),
    )


def _json_values(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
