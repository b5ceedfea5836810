"""How points, their settings and their ends are called in tables, pages and sentences. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gpuexec.bench.model import Goal, Point, Sweep, TrialStatus
from gpuexec.report.figure_text import NO_READING
from gpuexec.report.wording import energy, on_one_line, rate, seconds

_NOT_SET = "not set"
_LONGEST_VALUE = 40
_ENDS = {
    TrialStatus.OK: "went through",
    TrialStatus.OUT_OF_MEMORY: "out of GPU memory",
    TrialStatus.CRASHED: "crashed",
    TrialStatus.TIMED_OUT: "over the time limit",
    TrialStatus.REFUSED: "refused by the planner",
    TrialStatus.FAILED: "failed",
    TrialStatus.INTERRUPTED: "interrupted",
    None: "not measured yet",
}
_FIGURES = {Goal.THROUGHPUT: "throughput", Goal.JOULES: "energy per item", Goal.LATENCY: "time of a task, p99"}


def end_text(status: TrialStatus | None) -> str:
    """Return how a point ended, in two or three words."""
    return _ENDS[status]


def figure_name(goal: Goal) -> str:
    """Return what the goal's figure is called."""
    return _FIGURES[goal]


def no_answer(goal: Goal) -> str:
    """Return why there is no best point."""
    need = " that was measured for 10 s or more" if goal is Goal.JOULES else ""
    return f"No answer: no point went through with a known {figure_name(goal)}{need}."


def goal_text(goal: Goal, value: float | None) -> str:
    """Return a value of the goal's figure with its unit."""
    if value is None:
        return NO_READING
    if goal is Goal.THROUGHPUT:
        return rate(value, "items") if value > 0 else "0 items/s"
    return f"{energy(value)} per item" if goal is Goal.JOULES else seconds(value)


def short_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Return a short name for each varied name: without its stage, where no other one ends alike."""
    ends = Counter(_last(name) for name in names)
    return {name: _last(name) if ends[_last(name)] == 1 else name for name in names}


def setting_text(value: Any) -> str:
    """Return a value of a setting on one line."""
    if value is None:
        return _NOT_SET
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return on_one_line(", ".join(map(setting_text, value)) or "none", _LONGEST_VALUE)
    return on_one_line(value, _LONGEST_VALUE)


def coordinates(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Return the value of each varied name at a point: its own setting, or today's."""
    return {name: point.settings.get(name, sweep.today.get(name)) for name in sweep.varied}


def is_today(sweep: Sweep, point: Point) -> bool:
    """Return whether a point's settings are those that the pipeline has anyway."""
    return not any(differs_from_today(sweep, name, value) for name, value in point.settings.items())


def differs_from_today(sweep: Sweep, name: str, value: Any) -> bool:
    """Return whether a setting changes what the pipeline has anyway, as far as that is known."""
    return name not in sweep.today or bool(sweep.today[name] != value)


def settings_text(sweep: Sweep, point: Point) -> str:
    """Return what distinguishes a point: ``"batch_size 32, gpus 0.5"``."""
    names = short_names(sweep.varied)
    varied = [f"{names[name]} {setting_text(value)}" for name, value in coordinates(sweep, point).items()]
    # What is suggested for a single point need not be among what the sweep varies.
    others = [f"{name} {setting_text(value)}" for name, value in point.settings.items() if name not in sweep.varied]
    return ", ".join([*varied, *others])


def _last(name: str) -> str:
    return name.rpartition(".")[2]
