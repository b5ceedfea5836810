"""Which neighbouring stages run in the same workers, one after the other on the tasks in hand.

A stage is *light* if a hop to a process of its own would cost more than it gains: it takes its tasks one by one, needs
no GPU, has nothing to set up, and leaves the number of its workers to the planner. Light stages are fused with each
other and with at most one neighbour that has something to set up, so that no model is held more often than before.

Invariants
1. Every stage is in exactly one group, and a group is a range of neighbours.
2. Stages of a group have the same environment and ask for the same CPUs.
3. Of a group with several stages, at most one is not light, and only because it has something to set up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuexec.records import Record


class FusionFacts(Record):
    """What decides whether a stage is fused.

    ``obstacle``: why it is fused with no other, in words; ``None`` if nothing forbids it. ``sets_up``: it does
    something in ``setup``, ``setup_on_node`` or ``teardown``. ``environment``: what must be the same in a group: CPUs,
    variables, options.
    """

    name: str
    obstacle: str | None = None
    sets_up: bool = False
    environment: tuple[Any, ...] = ()


class Group(Record):
    """Neighbouring stages, by index. ``why_separate``: why the first of them is not in the group before."""

    stages: tuple[int, ...]
    why_separate: str | None = None


def group_stages(stages: Sequence[FusionFacts]) -> tuple[Group, ...]:
    """Return the groups of a pipeline, from left to right, each as large as it can be."""
    groups: list[Group] = []
    for index, facts in enumerate(stages):
        members = groups[-1].stages if groups else ()
        why = _why_not_with([stages[i] for i in members], facts) if members else None
        if members and why is None:
            groups[-1] = Group((*members, index), groups[-1].why_separate)
        else:
            groups.append(Group((index,), why))
    return tuple(groups)


def _why_not_with(group: Sequence[FusionFacts], facts: FusionFacts) -> str | None:
    before = group[-1]
    if facts.obstacle is not None:
        return facts.obstacle
    if before.obstacle is not None:
        return f"{before.name}: {before.obstacle}"
    if facts.sets_up and any(member.sets_up for member in group):
        return "another stage of the group before it has something to set up too"
    if facts.environment != before.environment:
        return "its CPUs, variables or options are not those of the stage before"
    return None
