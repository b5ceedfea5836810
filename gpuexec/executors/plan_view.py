"""Renders a plan as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gpuexec.contract.allocation import GpuShare
from gpuexec.hardware.model import Node
from gpuexec.planning.fusion import Group
from gpuexec.planning.model import Plan, StagePlan, WorkerGrant
from gpuexec.units import format_bytes


def render_plan(plan: Plan, node: Node, names: Sequence[str], groups: Sequence[Group]) -> Iterator[RenderableType]:
    """Yield a line about the node, a table per phase, and the notes.

    ``names``: of all stages. ``groups``: which of them are fused; the stages of a group share a row.
    """
    by_lead = {group.stages[0]: group for group in groups}
    host = node.host
    yield Text(f"{host.hostname}: {host.usable_cpus:g} usable CPUs, {len(node.gpus)} GPU(s)")
    for number, phase in enumerate(plan.phases, start=1):
        title = f"phase {number} of {len(plan.phases)}" if len(plan.phases) > 1 else None
        table = Table("stage", "workers", "CPUs each", "GPUs", "why", title=title, title_justify="left")
        for stage in phase.stages:
            table.add_row(*_row(stage, names, by_lead[stage.stage_index]))
        yield table
    for note in plan.notes:
        yield Text(f"note: {note}")


def _row(stage: StagePlan, names: Sequence[str], group: Group) -> list[str]:
    count = len(stage.workers)
    workers_by_gpus = Counter(_gpus(worker) for worker in stage.workers)
    return [
        "\n+ ".join(names[index] for index in group.stages),
        str(count)
        if stage.has_fixed_count or stage.workers[0].allocation.gpus
        else f"{stage.fewest} to {count}"
        if count > stage.fewest
        else str(count),
        f"{stage.workers[0].allocation.cpus:g}",
        "\n".join(f"{n} × {gpus}" if n > 1 else gpus for gpus, n in workers_by_gpus.items() if gpus) or "none",
        stage.reason + (f"\nnot fused with the stage before: {group.why_separate}" if group.why_separate else ""),
    ]


def _gpus(worker: WorkerGrant) -> str:
    shares = worker.allocation.gpus
    if len(shares) > 1:
        return f"GPUs {', '.join(str(share.index) for share in shares)}"
    return "".join(_share(share) for share in shares)


def _share(share: GpuShare) -> str:
    part = "" if share.fraction == 1 else f"{share.fraction:g} of "
    slice_ = f" {share.uuid.partition('-')[0]}" if share.uuid.startswith("MIG-") else ""
    size = "" if share.memory_bytes is None else f" ({format_bytes(share.memory_bytes)})"
    return f"{part}GPU {share.index}{slice_}{size}"
