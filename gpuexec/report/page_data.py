"""What of a report goes into its page: everything the page shows, in a bounded size.

Long lists keep their newest entries. If that is still too much, time lines get wider bins, and lists get shorter.
"""

from __future__ import annotations

import itertools
from typing import Any

from gpuexec.contract.metrics import MAX_NAMES
from gpuexec.report.bounds import Data, number, row, rows
from gpuexec.report.compact_json import compact_json

_LISTS = {"workers": 2000, "failures": 300, "quarantined": 1000, "plan_changes": 1000, "notes": 500, "templates": 100}
_FEWEST_BINS = 32
_SMALLEST_PART = 0.01
_MEANS = frozenset({"queued", "workers"})


def page_json(report: Data, limit: int) -> str:
    """Return what the page shows of a report as JSON that may stand in a script element.

    ``omitted`` in it says how many entries of each list are left out. It has at most ``limit`` characters, unless the
    report has thousands of stages.
    """
    kept = {name: value for name, value in report.items() if name != "processes"}
    bins = int(number(row(report.get("timeline")).get("bins")))
    part = 1.0  # of the entries of the long lists
    while True:
        data = compact_json({**kept, **_newest(report, part), "stages": _with_metrics(kept, part)})
        if len(data) <= limit or (bins <= _FEWEST_BINS and part < _SMALLEST_PART):
            return data
        if bins > _FEWEST_BINS:
            kept |= _with_wider_bins(kept)
            bins = -(-bins // 2)
        part /= 2


def _newest(report: Data, part: float) -> dict[str, Any]:
    """Return the newest entries of the long lists, and how many are left out of each."""
    found: dict[str, Any] = {}
    omitted: dict[str, int] = {}
    for name, most in _LISTS.items():
        entries = report.get(name)
        if not isinstance(entries, (list, tuple)):
            continue
        count = max(1, int(most * part))
        found[name] = list(entries[-count:])
        if len(entries) > count:
            omitted[name] = len(entries) - count
    return {**found, "omitted": omitted}


def _with_metrics(report: Data, part: float) -> list[dict[str, Any]]:
    """Return the stages with this part of the most metrics that they may have."""
    most = max(1, int(MAX_NAMES * part))
    return [
        {**stage, "metrics": dict(itertools.islice(row(stage.get("metrics")).items(), most))}
        for stage in rows(report.get("stages"))
    ]


def _with_wider_bins(report: Data) -> dict[str, Any]:
    """Return the time lines of stages and GPUs with bins of twice the width."""
    timeline = row(report.get("timeline"))
    stages = [
        {
            **stage,
            "timeline": {name: _merged(values, name in _MEANS) for name, values in row(stage.get("timeline")).items()},
        }
        for stage in rows(report.get("stages"))
    ]
    gpus = [
        {**gpu, "series": [_wider_series(found) for found in rows(gpu.get("series"))]}
        for gpu in rows(report.get("gpus"))
    ]
    wider = {"bin_s": number(timeline.get("bin_s")) * 2, "bins": -(-int(number(timeline.get("bins"))) // 2)}
    return {"timeline": wider, "stages": stages, "gpus": gpus}


def _wider_series(series: Data) -> dict[str, Any]:
    mean, most = series.get("mean") or [], series.get("max") or []
    if len(mean) <= _FEWEST_BINS:
        return dict(series)
    pairs = [[value for value in most[i : i + 2] if value is not None] for i in range(0, len(most), 2)]
    return {
        **series,
        "bin_s": number(series.get("bin_s")) * 2,
        "mean": _merged(mean, mean=True),
        "max": [max(pair) if pair else None for pair in pairs],
    }


def _merged(values: Any, mean: bool) -> list[Any]:
    """Return sums or means of two neighbours each; ``None`` is no value."""
    if not isinstance(values, (list, tuple)):
        return []
    merged: list[Any] = []
    for start in range(0, len(values), 2):
        pair = [number(value) for value in values[start : start + 2] if value is not None]
        merged.append((sum(pair) / (len(pair) if mean else 1)) if pair else None)
    return merged
