"""What the page of a sweep shows, as plain values. Pure.

Texts are made here, where they are tested; the page's scripts only lay them out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from gpuexec._version import __version__
from gpuexec.bench.analysis import Analysis
from gpuexec.bench.as_dict import SCHEMA, VERSION, plain
from gpuexec.bench.labels import (
    coordinates,
    end_text,
    figure_name,
    no_answer,
    setting_text,
    settings_text,
    short_names,
)
from gpuexec.bench.model import TODAY, StageFigures, Sweep, TrialResult, TrialStatus
from gpuexec.bench.spread import Spread
from gpuexec.bench.summary import AIMS, PointSummary, figures_of
from gpuexec.report.run_folder import PAGE

MOST_POINTS = 1000  # the best ones; bench.json has all
_FIGURES = {
    "throughput": ("throughput", "items/s", "higher"),
    "joules_per_item": ("energy per item", "J", "lower"),
    "latency_p99_s": ("time of a task, p99", "s", "lower"),
    "first_result_s": ("time to first result", "s", "lower"),
}


def page_data(sweep: Sweep, analysis: Analysis, folder: str) -> dict[str, Any]:
    """Return what the page shows. ``folder``: where the page is; links to reports are relative to it."""
    shown = analysis.points[:MOST_POINTS]
    shown += tuple(point for point in analysis.points[MOST_POINTS:] if point.point.id == TODAY)
    axes = {name: _axis(sweep, name, shown) for name in sweep.varied}
    return {
        "schema": f"{SCHEMA}/{VERSION}",
        "gpuexec": __version__,
        "target": sweep.target,
        "goal": AIMS[sweep.goal].figure,
        "goal_name": figure_name(sweep.goal),
        **{
            name: plain(getattr(sweep, name))
            for name in ("search", "repeat", "warmup", "seed", "started_at", "complete")
        },
        **{name: plain(getattr(sweep, name)) for name in ("node", "versions", "fixed")},
        "answer": _answer(sweep, analysis),
        "figures": [
            {"key": key, "name": name, "unit": unit, "better": better}
            for key, (name, unit, better) in _FIGURES.items()
            if any(point.spread(key) for point in shown)
        ],
        "axes": [{"name": name, "short": short, **axes[name][0]} for name, short in short_names(sweep.varied).items()],
        "points": [
            _point(sweep, point, rank, {name: places for name, (_, places) in axes.items()}, folder)
            for rank, point in enumerate(shown, start=1)
        ],
        "omitted": {"points": len(analysis.points) - len(shown)},
    }


def report_link(run_folder: str, folder: str) -> str:
    """Return the address of a run's page, relative to ``folder``, which is where the sweep's page is."""
    path = PurePosixPath(run_folder)
    if path.is_absolute():
        path = PurePosixPath(os.path.relpath(path, folder))
    # Without "./" a name with a colon could be taken for a scheme.
    return f"./{quote(os.fsencode(path / PAGE))}"


def _answer(sweep: Sweep, analysis: Analysis) -> dict[str, Any]:
    found = analysis.answer
    if found is None:
        return {"finding": "none", "sentences": [no_answer(sweep.goal)], "snippet": "", "point_id": None}
    return {name: plain(getattr(found, name)) for name in ("finding", "sentences", "snippet", "point_id")}


def _axis(sweep: Sweep, name: str, points: Sequence[PointSummary]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return an axis, and the place of each value on it: numbers in their order, and others as they were given."""
    found = [*sweep.varied[name], *(coordinates(sweep, point.point)[name] for point in points)]
    texts = list(dict.fromkeys(map(setting_text, found)))
    numbers = {setting_text(value): value for value in found if _is_number(value)}
    is_numeric = all(text in numbers for text in map(setting_text, sweep.varied[name]))
    if is_numeric:
        texts.sort(key=lambda text: (text not in numbers, numbers.get(text, 0)))
    today = setting_text(sweep.today.get(name))
    axis = {
        "values": texts,
        "numeric": is_numeric,
        "all_numbers": all(text in numbers for text in texts),
        "today": texts.index(today) if today in texts else None,
    }
    return axis, {text: place for place, text in enumerate(texts)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point(
    sweep: Sweep, summary: PointSummary, rank: int, places: Mapping[str, Mapping[str, int]], folder: str
) -> dict[str, Any]:
    counted = [r for r in sweep.counted if r.trial.point_id == summary.point.id and r.trial.rung == summary.rung]
    at = coordinates(sweep, summary.point)
    return {
        "id": summary.point.id,
        "rank": rank,
        "is_today": summary.point.id == TODAY,
        "settings": settings_text(sweep, summary.point),
        "at": [places[name][setting_text(value)] for name, value in at.items()],
        "status": plain(summary.status),
        "end": end_text(summary.status),
        "reason": summary.reason,
        "usable": summary.is_usable,
        "failed": summary.has_failed,
        "n": summary.n,
        "rung": summary.rung,
        "best": summary.is_best,
        "equal": summary.equally_good,
        "front": summary.on_front,
        "joules_reason": summary.joules_reason,
        "marks": list(summary.marks),
        "figures": {key: _spread(summary.spread(key), figures_of(counted, key)) for key in _FIGURES},
        "peak_gpu_bytes": _largest([stage.peak_gpu_bytes for result in counted for stage in result.stages]),
        "stages": _stages([result for result in counted if result.status is TrialStatus.OK]),
        "runs": [_run(result, folder) for result in summary.results],
    }


def _spread(spread: Spread | None, values: Sequence[float]) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "mean": spread.mean,
        "low": spread.low,
        "high": spread.high,
        "sd": spread.sd,
        "cv": spread.cv,
        "word": plain(spread.word),
        "values": list(values),
    }


def _run(result: TrialResult, folder: str) -> dict[str, Any]:
    return {
        "number": result.trial.number,
        "repeat": result.trial.repeat,
        "again": result.trial.again,
        "rung": result.trial.rung,
        "end": end_text(result.status),
        "ok": result.status is TrialStatus.OK,
        "short": result.energy_is_short and result.joules_per_item is not None,
        "link": report_link(result.run_folder, folder) if result.run_folder else None,
        **{name: plain(getattr(result, name)) for name in ("reason", "marks", "started_at", "seconds", "items")},
        **{name: plain(getattr(result, name)) for name in _FIGURES},
    }


def _stages(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Return each stage with the means of its figures over the repeats, and its largest peak of memory."""
    by_name: dict[str, list[StageFigures]] = {}
    for result in results:
        for stage in result.stages:
            by_name.setdefault(stage.name, []).append(stage)
    means = ("items_per_s", "service_p50_s", "service_p90_s", "service_p99_s", "joules_per_item", "workers")
    return [
        {
            "name": name,
            **{key: _mean([getattr(stage, key) for stage in stages]) for key in means},
            "peak_gpu_bytes": _largest([stage.peak_gpu_bytes for stage in stages]),
            "gpu_memory_gb": stages[-1].gpu_memory_gb,
            "idle": _mean_times([stage.idle for stage in stages]),
        }
        for name, stages in by_name.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _mean_times(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    reasons = dict.fromkeys(reason for time in times for reason in time)
    return {reason: sum(time.get(reason, 0.0) for time in times) / len(times) for reason in reasons}
