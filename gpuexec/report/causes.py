"""What the stage that limits a run did in its time: one function for each cause, each returns a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpuexec.report import bounds
from gpuexec.report.bounds import Data, StageLoad, number, ratio, row, rows
from gpuexec.report.findings import sentence
from gpuexec.report.wording import counted, gained, named, percent, seconds

FULL_SHARE = 0.25  # of its time, for which a stage waited for room in the next queue
_THROTTLED_SHARE = 0.15  # of the time, from which on the clocks and not the stage are the news
_DEAF_SHARE = 0.25  # of its time, for which a stage waited while the driver did not listen
_STARVED_SHARE = 0.4  # of its time, for which a stage with GPUs had no input


@dataclass(frozen=True, slots=True)
class Case:
    """A report with the stage that limits the run. ``loads``: all stages with workers of their own, in order."""

    report: Data
    loads: Sequence[StageLoad]
    slowest: StageLoad
    wall_s: float

    @property
    def before(self) -> StageLoad | None:
        """The stage before the slowest one."""
        return next((load for load in reversed(self.loads) if load.index < self.slowest.index), None)


def sentence_about(case: Case) -> dict[str, Any]:
    """Return the sentence that names the cause."""
    return _CAUSES.get(case.slowest.cause, _waiting)(case)


def _working(case: Case) -> dict[str, Any]:
    """The stage works nearly all the time: it, its GPUs' clocks, or what it keeps waiting is the news."""
    starved = _starved(case)
    if starved is not None:
        return _starved_gpus(case, starved)
    slowest = case.slowest
    throttled = _throttled(case) if slowest.on_gpus else None
    if throttled is not None:
        return throttled
    on, figures = _busy_on(case)
    what_if, gain = _what_if(case)
    figures |= gain
    if slowest.index == 0:
        kind = "slow_source"
        text = f"The source, {named(slowest.name)}, limits this run: {on}; {what_if}, faster later stages nothing."
    else:
        kind = "slow_gpu_stage" if slowest.on_gpus else "slow_stage"
        text = f"{named(slowest.name)} limits this run: {on}{_full_queue(case, figures)}; {what_if}."
    return sentence(kind, text, figures, stage_index=slowest.heaviest)


def _busy_on(case: Case) -> tuple[str, dict[str, float]]:
    """Return what the slowest stage ran on and how busy that was, in words and as figures."""
    load = case.slowest
    figures = {"workers": load.workers, "tasks_per_s": ratio(load.tasks, load.span_s)}
    gpus = bounds.gpus_of(case.report, load) if load.on_gpus else []
    times = [row(gpu.get("time")) for gpu in gpus]
    lived = sum(max(0.0, number(value)) for time in times for value in time.values())
    if lived > 0:
        on = counted(len(gpus), "GPU")
        figures["gpus"] = len(gpus)
        figures["busy_share"] = ratio(sum(max(0.0, number(time.get("busy"))) for time in times), lived)
    else:
        on = counted(max(1, round(load.workers)), "worker")
        figures["busy_share"] = load.share("busy")
    return f"{on} busy {percent(figures['busy_share'])}", figures


def _what_if(case: Case) -> tuple[str, dict[str, float]]:
    """Return what another worker of the slowest stage, and a faster source, would give."""
    slowest = case.slowest
    if slowest.batches <= max(1, round(slowest.workers)):
        return f"more workers would have nothing to do, it had {counted(slowest.batches, 'batch')}", {}
    more = "one more worker"
    if slowest.gpus == 1:
        more = "one more GPU"
    elif slowest.gpus > 0:
        more = f"one more worker ({slowest.gpus:g} GPU{'s' if slowest.gpus > 1 else ''})"
    elif slowest.on_gpus:
        more = f"one more worker ({slowest.gpu_memory_gb:g} GiB of a GPU)"
    gain = bounds.gain_of_more(case.loads, slowest, case.wall_s)
    worth = gain >= 0.005
    effect = gained(gain) if worth else "nothing"
    source = ", a faster source nothing" if slowest.index and worth else ""
    return f"{more} would give {effect}{source}", {"gain_share": gain}


def _full_queue(case: Case, figures: dict[str, float]) -> str:
    before = case.before
    full = before.share("output_full") if before is not None else 0.0
    if before is None or full < FULL_SHARE:
        return ""
    figures["output_full_share"] = full
    return f"; the queue before it was full, {named(before.name)} waited {percent(full)} of its time for room"


def _starved(case: Case) -> StageLoad | None:
    """Return the stage with GPUs that waited longest for what the slowest stage makes, if it waited much."""
    behind = [load for load in case.loads if load.index > case.slowest.index and load.on_gpus]
    starved = max(behind, key=lambda load: load.share("no_input"), default=None)
    if case.slowest.on_gpus or starved is None or starved.share("no_input") < _STARVED_SHARE:
        return None
    return starved


def _starved_gpus(case: Case, starved: StageLoad) -> dict[str, Any]:
    slowest, waited = case.slowest, starved.share("no_input")
    on, figures = _busy_on(case)
    what_if, gain = _what_if(case)
    figures |= {**gain, "gpu_no_input_share": waited}
    name, gpu_stage = named(slowest.name), named(starved.name)
    # One task in, many out: that is how a pipeline's own source looks.
    if slowest.index == 0 and slowest.tasks <= max(1, round(slowest.workers)):
        kind = "slow_source"
        text = f"The source, {name}, limits this run: {on}, and the GPUs of {gpu_stage} had no input {percent(waited)} "
        text += f"of the time; {what_if}."
    else:
        kind = "starved_gpu"
        count = len(bounds.gpus_of(case.report, starved))
        gpus = f"{counted(count, 'GPU')}" if count > 1 else "GPU"
        source = "" if slowest.index else "the source, "
        text = (
            f"The {gpus} of {gpu_stage} had no input {percent(waited)} of the time, since {source}{name} limits this "
        )
        text += f"run: {on}; {what_if}, more GPUs nothing."
    return sentence(kind, text, figures, stage_index=slowest.heaviest)


def _throttled(case: Case) -> dict[str, Any] | None:
    gpus = bounds.gpus_of(case.report, case.slowest)
    shares = [(gpu, share) for gpu in gpus if (share := bounds.throttled_share(gpu)) is not None]
    slowed = [(gpu, share) for gpu, share in shares if share >= _THROTTLED_SHARE]
    if not slowed:
        return None
    worst, least = (chosen(share for _, share in slowed) for chosen in (max, min))
    on, figures = _busy_on(case)
    figures |= {"throttled_share": worst, "throttled_gpus": len(slowed)}
    which = "they were" if len(gpus) > 1 else "it was"
    if len(slowed) < len(gpus):
        which = f"{len(slowed):,} of them {'was' if len(slowed) == 1 else 'were'}"
    most = "up to " if worst > least + 0.005 else ""
    text = (
        f"Throttled GPUs limit this run: {named(case.slowest.name)} kept {on}, but {which} slowed down by heat or by "
    )
    text += f"the power supply for {most}{percent(worst)} of the time{_clocks([gpu for gpu, _ in slowed], figures)}."
    return sentence("throttling", text, figures, stage_index=case.slowest.heaviest)


def _clocks(gpus: Sequence[Data], figures: dict[str, float]) -> str:
    speeds = [value for gpu in gpus for value in bounds.known(bounds.series(gpu, "sm_clock")) if value > 0]
    usual, best = bounds.mean(speeds), max(speeds, default=0.0)
    if usual is None or best <= usual * 1.02:
        return ""
    figures |= {"sm_clock_mhz": usual, "sm_clock_best_mhz": best}
    return f", and ran at {usual:,.0f} MHz on average, {best:,.0f} MHz at best"


def _setting_up(case: Case) -> dict[str, Any]:
    slowest = case.slowest
    workers = [found for found in rows(case.report.get("workers")) if found.get("stage_index") == slowest.index]
    each = bounds.mean(number(found.get("setup_s")) for found in workers if found.get("setup_s") is not None)
    figures = {"setting_up_share": slowest.share("setting_up"), "busy_share": slowest.share("busy")}
    one = ""
    if each:
        figures["setup_s"] = each
        one = f" (setup() took {seconds(each)} a worker)"
    text = f"Setting up limits this run: the workers of {named(slowest.name)} spent "
    text += f"{percent(figures['setting_up_share'])} of their time on it{one} and {percent(figures['busy_share'])} on "
    text += "tasks; with more tasks, or fewer workers, it would weigh less."
    return sentence("setup", text, figures, stage_index=slowest.heaviest)


def _input(case: Case) -> dict[str, Any]:
    """The first stage waits for its input, which is the program's."""
    slowest = case.slowest
    figures = {"no_input_share": slowest.share("no_input"), "busy_share": slowest.share("busy")}
    text = f"The source limits this run: {named(slowest.name)}, the first stage, waited "
    text += f"{percent(figures['no_input_share'])} of its time for the tasks that the program passes in; faster stages "
    text += "would give nothing."
    return sentence("slow_source", text, figures, stage_index=slowest.heaviest)


def _retries(case: Case) -> dict[str, Any]:
    slowest = case.slowest
    attempts = sum(number(stage.get("failed_attempts")) for stage in rows(case.report.get("stages")))
    figures = {"lost_share": slowest.share("lost"), "retry_delay_share": slowest.share("retry_delay")}
    text = f"Retries limit this run: {named(slowest.name)} spent {percent(figures['lost_share'])} of its workers' time "
    text += f"on attempts that failed and {percent(figures['retry_delay_share'])} on waiting to try again "
    text += f"({counted(attempts, 'failed attempt')} in all)."
    return sentence("retries", text, {**figures, "failed_attempts": attempts}, stage_index=slowest.heaviest)


def _moving(case: Case) -> dict[str, Any]:
    """Batches are long on their way, also where the driver does not take them: idle workers of other stages tell."""
    for state in ("caller_not_reading", "checkpoint_write"):
        load = max(case.loads, key=lambda found: found.share(state))
        if load.share(state) >= _DEAF_SHARE:
            return _waiting(replace(case, slowest=load), state)
    return _waiting(case)


def _waiting(case: Case, state: str | None = None) -> dict[str, Any]:
    """The stage waits for something that is no other stage."""
    slowest, state = case.slowest, state or case.slowest.cause
    share = slowest.share(state)
    unknown = f"{{stage}} limits this run: {{share}} of its time is {state.replace('_', ' ')}"
    words = _WAITS.get(state, unknown).format(stage=named(slowest.name), share=percent(share))
    kind = state if state in _WAITS else "other"
    figures = {f"{kind}_share": share, "busy_share": slowest.share("busy")}
    return sentence(
        kind, f"{words}; it was busy {percent(figures['busy_share'])}.", figures, stage_index=slowest.heaviest
    )


_WAITS = {
    "transfer": "Moving data limits this run: {stage} spent {share} of its time on receiving tasks and sending results",
    "memory_pressure": "Memory pressure limits this run: {stage} was held back {share} of its time, for want of memory",
    "caller_not_reading": "The caller limits this run: {stage} waited {share} of its time for it to take results",
    "checkpoint_write": "Writing the checkpoint limits this run: {stage} waited {share} of its time for it",
    "draining": "Ending workers limits this run: {stage} spent {share} of its time on teardown() and the exit",
    "no_gpu_room": "Room on the GPUs limits this run: {stage} waited {share} of its time for it",
}
_CAUSES: dict[str, Callable[[Case], dict[str, Any]]] = {
    "busy": _working,
    "setting_up": _setting_up,
    "no_input": _input,
    "retries": _retries,
    "transfer": _moving,
}
