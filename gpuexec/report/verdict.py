"""What limited a run, in sentences. Each has the figures behind it, and a kind that programs can read.

The rule. Every worker's time is busy, or idle for a reason. Where the reason is the stage before (no input) or the one
behind (its queue is full), the cause is there. The stage whose time is its own for the largest part of the run limits
it, and what it did in that time is the cause. How much another worker would give follows from work divided by workers,
until the next stage limits the run.
"""

from __future__ import annotations

from typing import Any

from gpuexec.report import bounds, causes, findings
from gpuexec.report.bounds import Data, number
from gpuexec.report.causes import Case
from gpuexec.report.findings import sentence
from gpuexec.report.wording import counted, named, percent, seconds

_SLOW_TASK_SHARE = 0.25  # of the run, which one batch took alone
_CLEAR_SHARE = 0.5  # of the run: a stage that was the reason for less does not limit it by itself


def verdict(report: Data) -> list[dict[str, Any]]:
    """Return sentences about a report, as ``{"kind", "text", "figures"}``; the first names what limited the run.

    Pure. Figures are finite numbers, in the unit that their name ends with: ``_share`` is a part of 1. The sentence
    about the limit has the ``stage_index`` of the stage at fault, if there is one. Where a run has failed, or has not
    ended, a sentence that says so comes first.
    """
    loads = bounds.stage_loads(report)
    slowest = bounds.limiting(loads)
    said = list(findings.outcome(report))
    if slowest is None or bounds.wall_s(report) <= 0:
        said.append(sentence("no_data", "Too little has been recorded to say what limits this run."))
    else:
        said.append(_limit(Case(report, loads, slowest, bounds.wall_s(report))))
    return [*said, *findings.details(report, loads, slowest, {found["kind"] for found in said})]


def _limit(case: Case) -> dict[str, Any]:
    late = bounds.slowest_batch(case.report)
    if late is not None and late.cost_s >= _SLOW_TASK_SHARE * case.wall_s:
        return _slow_task(late, case.wall_s)
    if case.slowest.own_s < _CLEAR_SHARE * case.wall_s:
        return _no_clear_stage(case)
    return causes.sentence_about(case)


def _slow_task(late: bounds.SlowBatch, wall: float) -> dict[str, Any]:
    process = number(late.batch.get("process_s"))
    ids = [str(task) for task in late.batch.get("task_ids") or ()]
    others = number(late.batch.get("tasks")) - 1
    what = f"task {named(ids[0])}" if ids else "one batch"
    with_others = f" (in a batch with {others:,.0f} more)" if others > 0 and ids else ""
    return sentence(
        "slow_task",
        f"One slow task limits this run: {what}{with_others} took {seconds(process)} in "
        f"{named(late.stage.get('name', ''))}, where half of the batches took at most {seconds(late.usual_s)}; for "
        f"{seconds(late.cost_s)} of {seconds(wall)} hardly anything else ran.",
        {"process_s": process, "p50_s": late.usual_s, "alone_s": late.cost_s, "wall_s": wall},
        stage_index=int(number(late.batch.get("stage_index"))),
    )


def _no_clear_stage(case: Case) -> dict[str, Any]:
    slowest, before = case.slowest, case.before
    full = before.share("output_full") if before is not None else 0.0
    if before is not None and full >= causes.FULL_SHARE:
        return sentence(
            "full_queue",
            f"The queue before {named(slowest.name)} limits this run: it was full, and {named(before.name)} waited "
            f"{percent(full)} of its time for room in it, although {named(slowest.name)} was busy only "
            f"{percent(slowest.share('busy'))}. A longer queue (queue_tasks, queue_bytes) would even that out.",
            {"output_full_share": full, "busy_share": slowest.share("busy")},
            stage_index=slowest.heaviest,
        )
    figures = {"own_s": slowest.own_s, "wall_s": case.wall_s, "tasks": slowest.tasks, "workers": slowest.workers}
    nearest = f"{named(slowest.name)} took the largest part, {seconds(slowest.own_s)} of {seconds(case.wall_s)}"
    if max(load.tasks for load in case.loads) <= max(1.0, round(slowest.workers)):
        return sentence(
            "few_tasks",
            f"Too few tasks limit this run: {counted(slowest.tasks, 'task')} could not keep its stages busy at the "
            f"same time; {nearest}.",
            figures,
        )
    return sentence("balanced", f"No stage alone limits this run; {nearest}.", figures)
