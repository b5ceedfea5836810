"""Which stages of a pipeline share their workers, from what the stages and the options say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.curator.fusion_facts import fusion_facts
from gpuexec.executors.stage_options import own_options
from gpuexec.planning.fusion import FusionFacts, Group, group_stages
from gpuexec.planning.model import StageDemand
from gpuexec.policies import FusionPolicy
from gpuexec.stage.environment import requested_variables


def separate(stages: Sequence[Any]) -> tuple[Group, ...]:
    """Return a group for each stage."""
    return tuple(Group((index,)) for index in range(len(stages)))


def groups_of(
    stages: Sequence[Any], demands: Sequence[StageDemand], options: ExecutorConfig, *, has_checkpoint: bool
) -> tuple[Group, ...]:
    """Return the groups of fused stages. With a checkpoint, only stages after the one that makes the sources are fused.

    It has to be asked of every source whether an earlier run has done it, before a stage gets its tasks.
    """
    facts = [_facts(stage, demand, options) for stage, demand in zip(stages, demands, strict=True)]
    sources = [index for index, stage in enumerate(stages) if getattr(stage, "is_source_stage", False)]
    if has_checkpoint and sources:
        for index in range(sources[0] + 1):
            obstacle = facts[index].obstacle or "the checkpoint has to know the tasks that it makes"
            facts[index] = dataclasses.replace(facts[index], obstacle=obstacle)
    return group_stages(facts)


def _facts(stage: Any, demand: StageDemand, options: ExecutorConfig) -> FusionFacts:
    own = own_options(stage, options)
    facts = fusion_facts(stage, demand, requested_variables(stage, options))
    if options.for_stage(own).fusion == FusionPolicy.OFF:
        facts = dataclasses.replace(facts, obstacle="fusion is off for it")
    return dataclasses.replace(facts, environment=(*facts.environment, own))
