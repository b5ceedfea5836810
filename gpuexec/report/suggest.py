"""What to change after a run, and what that would give, by the run's own figures. Pure.

A suggestion is made where the ledger of the run (what each second of each worker and GPU went to) shows that a setting
is in the way, and where the node has room for another one. `what_if` says how the gain is predicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gpuexec._version import __version__
from gpuexec.report import bounds
from gpuexec.report.bounds import Data, row, rows
from gpuexec.report.suggest_batches import batch_suggestions
from gpuexec.report.suggest_options import option_suggestions
from gpuexec.report.suggest_workers import worker_suggestions
from gpuexec.report.suggestion import OPTION, Suggestion
from gpuexec.report.verdict import verdict
from gpuexec.report.what_if import RecordedRun, recorded_run
from gpuexec.report.wording import gained, seconds

SCHEMA = "gpuexec-suggestions/1"
MOST = 3
WORTH_TRYING = 0.05  # of the throughput: less is within what repeats of a run differ by
_OUTCOMES = ("failed", "interrupted", "unfinished")  # kinds of sentences that come before the one about the limit
_LEAST_WORK_S = 0.5  # of the slowest stage: in less, starting and chance weigh more than the work

# What helps where hardly a setting does, by the kind of the verdict.
_ADVICE = {
    "slow_source": "The source limits this run: what comes after it has nothing to gain from other settings.",
    "caller_not_reading": "The program that takes the results limits this run, and no setting of the pipeline.",
    "slow_task": "One slow task limits this run: split it, or let it come first.",
    "setup": "Setting up limits this run: with more tasks a run, or a faster model load, it weighs less.",
    "retries": "Failed attempts limit this run: their error has to be removed (see its failures).",
    "throttling": "Throttled GPUs limit this run: they need cooling or power, not other settings.",
    "memory_pressure": "The host's memory limits this run (docs/memory.md).",
    "checkpoint_write": "Writing the checkpoint limits this run: a faster disk, or larger sources, would help.",
    "few_tasks": "There were too few tasks to keep the stages busy at the same time.",
}
# Limits that are no stage's work, so that faster stages would not help, and the kinds of changes that may all the same.
_NO_WORK: dict[str, tuple[str, ...]] = {
    "caller_not_reading": (),
    "checkpoint_write": (),
    "memory_pressure": (),
    "retries": ("smaller_batch",),
    "setup": ("warm_start",),
    "slow_task": (),
    "throttling": (),
}


def suggestions(report: Data) -> list[Suggestion]:
    """Return the changes worth trying, the best first, at most three. ``report``: as ``RunReport.to_dict`` makes it."""
    is_short = why_too_short(report) is not None
    found = [each for each in _ranked(report) if each.is_needed or (not is_short and each.gain_share >= WORTH_TRYING)]
    return found[:MOST]


def suggestions_as_dict(report: Data) -> dict[str, Any]:
    """Return suggestions and suggested sizes as plain values: what ``gpuexec suggest --json`` prints."""
    found = suggestions(report)
    return {
        "schema": SCHEMA,
        "gpuexec": __version__,
        "run_id": report.get("run_id"),
        "pipeline": report.get("pipeline"),
        "limit": _limit(report).get("text"),
        "suggestions": [suggestion.to_dict() for suggestion in found],
        "why_none": None if found else _why_none(report),
        "gpu_memory": gpu_sizes(report),
    }


def why_too_short(report: Data) -> str | None:
    """Return why a run says too little for a prediction; ``None`` if it says enough."""
    loads, wall = bounds.stage_loads(report), bounds.wall_s(report)
    work = max((load.work_s for load in loads), default=0.0)
    if bounds.limiting(loads) is None or wall <= 0:
        return "Too little has been recorded to suggest anything."
    if work < _LEAST_WORK_S:
        return (
            f"This run was too short to suggest anything: its stages worked for {seconds(work)} of {seconds(wall)} at "
            f"most, and the rest was starting and waiting. It takes {seconds(_LEAST_WORK_S)} of work."
        )
    return None


def gpu_sizes(report: Data) -> list[dict[str, Any]]:
    """Return the measured peak of GPU memory, and what to ask for, of each stage that used a GPU.

    Sizes are in bytes, ``suggested_gb`` is in GiB. Where no peak was measured, ``reason`` says why.
    """
    names = ("peak_bytes", "asked_bytes", "suggested_gb", "source", "reason")
    pairs = [(stage.get("name"), row(stage.get("gpu_memory"))) for stage in rows(report.get("stages"))]
    return [
        {"stage": name, **{key: memory.get(key) for key in names}}
        for name, memory in pairs
        if memory.get("peak_bytes") is not None or memory.get("asked_bytes") is not None
    ]


def all_suggestions(run: RecordedRun) -> Iterator[Suggestion]:
    """Yield every change that the node has room for, also those that would give nothing."""
    yield from worker_suggestions(run)
    yield from batch_suggestions(run)
    yield from option_suggestions(run)


def _ranked(report: Data) -> list[Suggestion]:
    """Return the changes that may help, the best first; of those that change the same settings, the best."""
    run, kind = recorded_run(report), str(_limit(report).get("kind"))
    times_named = Counter(str(stage.get("name")) for stage in rows(report.get("stages")))
    found: dict[tuple[str, ...], Suggestion] = {}
    for each in sorted(all_suggestions(run), key=lambda each: (not each.is_needed, -each.expected_share)):
        owners = {name.rpartition(".")[0] for name in each.settings} - {OPTION}
        helps = kind not in _NO_WORK or each.kind in _NO_WORK[kind]
        if (helps or each.is_needed) and all(times_named[owner] == 1 for owner in owners):
            found.setdefault(tuple(sorted(each.settings)), each)
    return list(found.values())


def _limit(report: Data) -> Data:
    """Return the sentence of the verdict about what limited the run."""
    sentences = rows(report.get("verdict")) or verdict(report)
    return next((each for each in sentences if each.get("kind") not in _OUTCOMES), {})


def _why_none(report: Data) -> str:
    return (
        why_too_short(report)
        or _ADVICE.get(str(_limit(report).get("kind")))
        or "Nothing is worth trying: no change that this node has room for is predicted to give "
        f"{gained(WORTH_TRYING)} or more."
    )
