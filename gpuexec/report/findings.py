"""What else is worth saying about a run: how it ended, and what stands out beside its limit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gpuexec.report import bounds
from gpuexec.report.bounds import Data, StageLoad, number, ratio, row, rows
from gpuexec.report.wording import counted, energy, gained, named, on_one_line, percent, seconds
from gpuexec.units import format_bytes

_WORTH_SAYING = 0.05  # of the time
_TIGHT = 0.9  # of the GPU memory that was asked for
_LOOSE = 0.7
_MOST_STAGES = 3  # that get a sentence of one kind


def sentence(
    kind: str, text: str, figures: Mapping[str, float] | None = None, stage_index: int | None = None
) -> dict[str, Any]:
    """Return a sentence of a verdict. Figures become finite numbers. ``stage_index``: the stage that is at fault."""
    finite = {name: number(value) for name, value in (figures or {}).items()}
    at_fault = {} if stage_index is None else {"stage_index": stage_index}
    return {"kind": kind, "text": text, "figures": finite, **at_fault}


def outcome(report: Data) -> Iterator[dict[str, Any]]:
    """Say how the run ended, unless it is a success."""
    wall = bounds.wall_s(report)
    done = number(report.get("tasks_out"))
    figures = {"wall_s": wall, "tasks_out": done}
    if report.get("interrupted"):
        text = f"This run was ended after {seconds(wall)}, with {counted(done, 'task')} finished."
        yield sentence("interrupted", text, figures)
    elif report.get("error"):
        yield sentence("failed", f"This run failed after {seconds(wall)}{_place(report)}.", figures)
    elif not report.get("ended", True):
        text = f"This run has not ended: the figures are those of its first {seconds(wall)}."
        yield sentence("unfinished", text, figures)


def _place(report: Data) -> str:
    """Say which stage ended the run, and by which error."""
    last = next((found for found in reversed(rows(report.get("failures"))) if found.get("action") == "raise"), None)
    if last is None:
        return f": {_first_line(report.get('error'))}"
    return f" in {named(last.get('stage', ''))}: {_first_line(last.get('error'))}"


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["unknown"]
    return on_one_line(lines[0].rstrip("."), 200)


def details(
    report: Data, loads: Sequence[StageLoad], slowest: StageLoad | None, said: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Yield what stands out besides. ``said``: the kinds of sentences there are already."""
    if slowest is not None and slowest.cause == "busy" and "slow_task" not in said:
        yield from _next_limit(report, loads, slowest)
    yield from _idle_gpus(report)
    if "setup" not in said:
        yield from _setup_cost(loads)
    if "throttling" not in said:
        yield from _throttled(report)
    if "retries" not in said:
        yield from _lost_work(report, loads)
    yield from _troubles(report)
    yield from _gpu_memory(report)
    yield from _energy(report)


def _next_limit(report: Data, loads: Sequence[StageLoad], slowest: StageLoad) -> Iterator[dict[str, Any]]:
    wall = bounds.wall_s(report)
    others = [load for load in loads if load is not slowest and load.work_s > 0]
    if not others or slowest.work_s <= 0:
        return
    following = max(others, key=lambda load: load.work_s)
    gain = ratio(wall, max(wall - max(0.0, slowest.work_s - following.work_s), 1e-9)) - 1
    busy = f"{named(following.name)}, which worked {seconds(following.work_s)} of {seconds(wall)}"
    effect = f"a faster {named(slowest.name)} can give at most {gained(max(0.0, gain))}"
    lead = "Nearly as slow is" if gain < _WORTH_SAYING else "The next limit is"
    yield sentence("next_limit", f"{lead} {busy}: {effect}.", {"gain_share": gain, "work_s": following.work_s})


_IDLE_WORDS = {
    "no_input": "no input",
    "output_full": "a full queue behind them",
    "no_gpu_room": "no room on them",
    "setting_up": "setting up",
    "retry_delay": "waiting for a retry",
    "memory_pressure": "memory pressure",
    "checkpoint_write": "writing the checkpoint",
    "draining": "draining",
    "caller_not_reading": "the caller not reading",
    "transfer": "moving data",
    "lost": "attempts that failed",
}


def _idle_gpus(report: Data) -> Iterator[dict[str, Any]]:
    time: dict[str, float] = {}
    for gpu in rows(report.get("gpus")):
        for state, value in row(gpu.get("time")).items():
            time[str(state)] = time.get(str(state), 0.0) + max(0.0, number(value))
    lived = sum(time.values())
    idle = 1 - ratio(time.pop("busy", 0.0), lived)
    if lived <= 0 or idle < _WORTH_SAYING:
        return
    reasons = sorted(((ratio(value, lived), state) for state, value in time.items()), reverse=True)
    shown = [(share, state) for share, state in reasons[:3] if share >= 0.01]
    words = ", ".join(f"{percent(share)} {_IDLE_WORDS.get(state, state.replace('_', ' '))}" for share, state in shown)
    text = f"The GPUs were idle {percent(idle)} of the time" + (f": {words}." if words else ".")
    yield sentence("idle_gpus", text, {"idle_share": idle, **{f"{state}_share": share for share, state in shown}})


def _setup_cost(loads: Sequence[StageLoad]) -> Iterator[dict[str, Any]]:
    lived = sum(load.lived_s for load in loads)
    spent = sum(load.time.get("setting_up", 0.0) for load in loads)
    share = ratio(spent, lived)
    if share < _WORTH_SAYING:
        return
    most = max(loads, key=lambda load: load.time.get("setting_up", 0.0))
    text = f"Setting up took {percent(share)} of the workers' time, most of it in {named(most.name)}."
    yield sentence("setup_cost", text, {"setting_up_share": share, "setting_up_s": spent})


def _throttled(report: Data) -> Iterator[dict[str, Any]]:
    shares = [bounds.throttled_share(gpu) for gpu in rows(report.get("gpus"))]
    slowed = [share for share in shares if share is not None and share >= 0.01]
    if slowed:
        count = f"{len(slowed)} of {counted(len(shares), 'GPU')}"
        verb = "was" if len(slowed) == 1 else "were"
        most = "" if len(slowed) == 1 else "up to "
        text = f"{count} {verb} throttled by heat or by the power supply for {most}{percent(max(slowed))} of the time."
        yield sentence("throttled_gpus", text, {"throttled_share": max(slowed), "throttled_gpus": len(slowed)})


def _lost_work(report: Data, loads: Sequence[StageLoad]) -> Iterator[dict[str, Any]]:
    share = ratio(sum(load.time.get("lost", 0.0) for load in loads), sum(load.lived_s for load in loads))
    attempts = sum(number(stage.get("failed_attempts")) for stage in rows(report.get("stages")))
    if attempts > 0:
        cost = f" and cost {percent(share)} of the workers' time" if share else ""
        text = f"{counted(attempts, 'attempt')} at batches failed{cost}."
        yield sentence("failed_attempts", text, {"failed_attempts": attempts, "lost_share": share})


def _troubles(report: Data) -> Iterator[dict[str, Any]]:
    stages = rows(report.get("stages"))
    quarantined = sum(number(stage.get("quarantined")) for stage in stages)
    if quarantined:
        verb = "is" if round(quarantined) == 1 else "are"
        text = f"{counted(quarantined, 'task')} {verb} in quarantine: the run went on without them."
        yield sentence("quarantined", text, {"quarantined": quarantined})
    spilled = sum(number(stage.get("spilled_bytes")) for stage in stages)
    if spilled:
        text = f"{format_bytes(spilled)} waited on disk between two phases, since they did not fit in memory."
        yield sentence("spilled", text, {"spilled_bytes": spilled})


def _gpu_memory(report: Data) -> Iterator[dict[str, Any]]:
    told = 0
    for stage in rows(report.get("stages")):
        memory = row(stage.get("gpu_memory"))
        peak, asked = number(memory.get("peak_bytes")), number(memory.get("asked_bytes"))
        suggested = number(memory.get("suggested_gb"))
        use = ratio(peak, asked)
        if told == _MOST_STAGES or not peak or not asked or not suggested or _LOOSE < use < _TIGHT:
            continue
        told += 1
        much = "more than" if use > 1 else "nearly all of" if use >= _TIGHT else "only part of"
        text = f"{named(stage.get('name', ''))} used {much} the GPU memory it asked for: measured peak "
        text += f"{format_bytes(peak)} of {format_bytes(asked)}; suggested gpu_memory_gb={suggested:g}."
        yield sentence("gpu_memory", text, {"peak_bytes": peak, "asked_bytes": asked, "suggested_gb": suggested})


def _energy(report: Data) -> Iterator[dict[str, Any]]:
    measured = [
        number(found.get("joules"))
        for gpu in rows(report.get("gpus"))
        if (found := row(gpu.get("energy"))).get("kind") == "measured" and found.get("joules") is not None
    ]
    joules, done = sum(measured), number(report.get("tasks_out"))
    if not joules:
        return
    each = f", {energy(joules / done)} for each task that came out" if done else ""
    of = counted(len(measured), "GPU")
    text = f"The {of} used {energy(joules)} by their energy counters (measured){each}."
    if len(measured) == 1:
        text = f"The GPU used {energy(joules)} by its energy counter (measured){each}."
    yield sentence("energy", text, {"joules": joules, "joules_per_task": ratio(joules, done)})
