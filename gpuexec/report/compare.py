"""Compares runs: what changed between them, and what it did. Pure: reports in, plain values out.

A side is one run or several repeats of it. The first side is what the others are compared with. A difference is

* shown     by repeats on both sides: the t interval at 95 % of the difference excludes 0, and the exact Mann-Whitney
            test agrees where it has enough repeats to do so
* seen      in single runs, large enough to be worth a second run, and possibly chance
* none      neither of these
* unknown   a side has no reading
* refused   what the runs ran on differs, so nothing is concluded from their figures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuexec._version import __version__
from gpuexec.errors import ComparisonImpossible
from gpuexec.records import Record
from gpuexec.report import figures, statistics
from gpuexec.report.aligned import aligned
from gpuexec.report.bounds import Data, number, row, rows
from gpuexec.report.compare_verdict import NONE, REFUSED, SEEN, SHOWN, UNKNOWN, verdict
from gpuexec.report.configuration import StagePair, changes, is_repeat, paired_stages
from gpuexec.report.doubts import doubts
from gpuexec.report.figures import Figure

SCHEMA = "gpuexec-comparison/1"

_SEEN_TIMES = 1.25  # of single runs: what is worth a second run
_SEEN_SHARE = 0.1
_SIGNIFICANT = 1 - statistics.CONFIDENCE


class Side(Record):
    """Repeats of one run. ``name``: "A", "B", …"""

    name: str
    runs: Sequence[Data]


def sides_of(groups: Sequence[Sequence[Data]]) -> list[Side]:
    """Return the sides of a comparison. ``groups``: the reports as they were named, those of one side together.

    Two groups are two sides. Of more, single runs of one configuration make one side; the order is that of the first
    run of each. Raises ``ComparisonImpossible`` if there is only one run, or one is named twice.
    """
    runs = [run for group in groups for run in group]
    identities = [(run.get("run_id"), run.get("started_at"), run.get("pipeline")) for run in runs]
    twice = next((identity for number, identity in enumerate(identities) if identity in identities[:number]), None)
    if twice is not None:
        raise ComparisonImpossible(f"run {twice[0]} is named twice. Name each run once")
    if len(runs) < 2:
        raise ComparisonImpossible("a comparison needs two runs or more: gpuexec compare RUN_A RUN_B")
    sides: list[list[Data]] = []
    for group in groups:
        repeats = next((side for side in sides if is_repeat(side[0], group[0])), None) if len(groups) > 2 else None
        if repeats is None or len(group) > 1:
            sides.append(list(group))
        else:
            repeats += group
    return [Side(_side_name(number), side) for number, side in enumerate(sides)]


def compare(sides: Sequence[Side]) -> dict[str, Any]:
    """Return the comparison of each side with the first, as plain values, which JSON can carry.

    docs/comparing-runs.md describes them. With one side only, there is no comparison, and its repeats are described.
    """
    return {
        "schema": SCHEMA,
        "gpuexec": __version__,
        "confidence": statistics.CONFIDENCE,
        "sides": [_side(side) for side in sides],
        "comparisons": [_compared(sides[0], side) for side in sides[1:]],
    }


def compared_figure(first: Sequence[Figure | None], second: Sequence[Figure | None]) -> dict[str, Any]:
    """Return how a figure differs between two sides. ``None`` stands for a run that does not have it."""
    some = next(figure for figure in (*first, *second) if figure is not None)
    values = [[f.value for f in side if f is not None and f.value is not None] for side in (first, second)]
    reasons = [f.reason for f in (*first, *second) if f is not None and f.value is None and f.reason]
    known = all(values)
    means = [statistics.mean(side) if side else None for side in values]
    interval = statistics.difference_interval(*values) if known else None
    p, ranks_p = (statistics.difference_p(*values), statistics.mann_whitney_p(*values)) if known else (None, None)
    difference = number(means[1]) - number(means[0]) if known else None
    return {
        "key": some.key,
        "name": some.name,
        "unit": some.unit,
        "better": some.better,
        "before": {"mean": means[0], "values": values[0]},
        "after": {"mean": means[1], "values": values[1]},
        "difference": difference,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "ratio": _ratio(means[1], means[0]),
        "t_test_p": p,
        "mann_whitney_p": ranks_p,
        "finding": _finding(some, values) if known else UNKNOWN,
        "reason": reasons[0] if reasons else None if known else "a side has no reading",
    }


def _ratio(after: float | None, before: float | None) -> float | None:
    ratio = after / before if after is not None and before else None
    return ratio if ratio is not None and math.isfinite(ratio) and ratio > 0 else None


def _finding(figure: Figure, values: Sequence[Sequence[float]]) -> str:
    first, second = values
    p = statistics.difference_p(first, second)
    if p is not None:
        return SHOWN if p <= _SIGNIFICANT and _ranks_agree(first, second) else NONE
    one, other = statistics.mean(first), statistics.mean(second)
    if figure.unit == "share":
        return SEEN if abs(other - one) >= _SEEN_SHARE else NONE
    return SEEN if max(one, other) > _SEEN_TIMES * min(one, other) and max(one, other) > 0 else NONE


def _ranks_agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether the exact test says the same, or has too few repeats, or too many, to say anything."""
    if statistics.smallest_mann_whitney_p(len(first), len(second)) > _SIGNIFICANT:
        return True
    p = statistics.mann_whitney_p(first, second)
    return p is None or p <= _SIGNIFICANT


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "runs": [_run(run) for run in side.runs],
        "figures": [_described(each) for each in aligned([figures.figures_of_run(run) for run in side.runs])],
        "stages": [
            {"name": stage.get("name"), "figures": [_described(each) for each in _of_stage(side, index)]}
            for index, stage in enumerate(rows(side.runs[0].get("stages")))
        ],
    }


def _of_stage(side: Side, index: int) -> list[list[Figure | None]]:
    """Return the figures of a stage of the side's first run, in all its runs that have it."""
    return aligned([_stage_figures(run, _index_in(side.runs[0], run, index)) for run in side.runs])


def _index_in(first: Data, run: Data, index: int) -> int | None:
    if run is first:
        return index
    return next((pair.second for pair in paired_stages(first, run) if pair.first == index), None)


def _stage_figures(run: Data, index: int | None) -> list[Figure]:
    return [] if index is None else figures.figures_of_stage(run, rows(run.get("stages"))[index])


def _run(run: Data) -> dict[str, Any]:
    outcome = (
        "not ended" if not run.get("ended")
        else "interrupted" if run.get("interrupted")
        else "ok" if run.get("ok")
        else "failed"
    )  # fmt: skip
    node = row(run.get("node"))
    names = ("run_id", "pipeline", "started_at", "wall_s", "tasks_in", "tasks_out")
    return {**{name: run.get(name) for name in names}, "outcome": outcome, "hostname": node.get("hostname")}


def _described(found: Sequence[Figure | None]) -> dict[str, Any]:
    some = next(figure for figure in found if figure is not None)
    values = [figure.value for figure in found if figure is not None and figure.value is not None]
    interval = statistics.mean_interval(values)
    return {
        "key": some.key,
        "name": some.name,
        "unit": some.unit,
        "better": some.better,
        "values": values,
        "mean": statistics.mean(values) if values else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "reason": next((f.reason for f in found if f is not None and f.value is None), None),
    }


def _compared(first: Side, second: Side) -> dict[str, Any]:
    before, after = first.runs[0], second.runs[0]
    pairs = paired_stages(before, after)
    refusals = doubts(first.runs, second.runs)
    changed = changes(before, after, pairs)
    totals = _compared_lists(
        *([figures.figures_of_run(run) for run in side.runs] for side in (first, second)), refused=bool(refusals)
    )
    stages = [_compared_stage(first, second, pair, refused=bool(refusals)) for pair in pairs]
    found: dict[str, Any] = {
        "before": first.name,
        "after": second.name,
        "refusals": refusals,
        "changes": [{name: getattr(c, name) for name in ("kind", "name", "before", "after", "text")} for c in changed],
        "figures": totals,
        "stages": stages,
    }
    return {"verdict": verdict(found, changed, (len(first.runs), len(second.runs))), **found}


def _compared_stage(first: Side, second: Side, pair: StagePair, *, refused: bool) -> dict[str, Any]:
    stages = [
        None if index is None else rows(side.runs[0].get("stages"))[index]
        for side, index in ((first, pair.first), (second, pair.second))
    ]
    lists = [
        [] if index is None else [_stage_figures(run, _index_in(side.runs[0], run, index)) for run in side.runs]
        for side, index in ((first, pair.first), (second, pair.second))
    ]
    shares = [
        figures.work_share(side.runs[0], stage) if stage is not None else 0.0
        for side, stage in zip((first, second), stages, strict=True)
    ]
    return {
        "before": None if stages[0] is None else stages[0].get("name"),
        "after": None if stages[1] is None else stages[1].get("name"),
        "before_index": pair.first,
        "after_index": pair.second,
        "renamed": pair.renamed,
        "moved": pair.moved,
        "work_share": max(shares),
        "figures": _compared_lists(lists[0], lists[1], refused=refused),
    }


def _compared_lists(
    first: Sequence[list[Figure]], second: Sequence[list[Figure]], *, refused: bool
) -> list[dict[str, Any]]:
    found = [compared_figure(row[: len(first)], row[len(first) :]) for row in aligned([*first, *second])]
    if refused:
        found = [figure | {"finding": REFUSED if figure["finding"] != UNKNOWN else UNKNOWN} for figure in found]
    return found


def _side_name(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"S{number + 1}"
