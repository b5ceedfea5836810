"""Puts the figures of several runs beside each other. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpuexec.report.bounds import number
from gpuexec.report.figures import Figure

_SHARE = "share"


def aligned(runs: Sequence[Sequence[Figure]]) -> list[list[Figure | None]]:
    """Return a list for each figure that any run has, with an entry for each run.

    A share that a run does not have is 0 if it has others of the same whole: nothing went to it. The order is that of
    the runs' figures; shares of one whole are sorted by their largest value, with what was busy first.
    """
    groups = _groups(runs)
    by_key: dict[str, list[Figure | None]] = {}
    for number_of_run, found in enumerate(runs):
        for figure in found:
            by_key.setdefault(figure.key, [None] * len(runs))[number_of_run] = figure
    wholes = [{figure.group for figure in found if figure.unit == _SHARE} for found in runs]
    filled = [_with_zeros(row, wholes) for row in by_key.values()]
    return sorted(filled, key=lambda row: _place(row, groups))


def _with_zeros(row: list[Figure | None], wholes: Sequence[set[str]]) -> list[Figure | None]:
    some = next(figure for figure in row if figure is not None)
    if some.unit != _SHARE:
        return row
    nothing = Figure(some.key, some.name, some.unit, some.better, 0.0)
    return [own or (nothing if some.group in whole else None) for own, whole in zip(row, wholes, strict=True)]


def _groups(runs: Sequence[Sequence[Figure]]) -> dict[str, int]:
    """Return the place of each group: behind what is before it in the first run that has it."""
    order: list[str] = []
    for found in runs:
        behind = 0
        for figure in found:
            if figure.group in order:
                behind = order.index(figure.group) + 1
            else:
                order.insert(behind, figure.group)
                behind += 1
    return {group: place for place, group in enumerate(order)}


def _place(row: Sequence[Figure | None], groups: dict[str, int]) -> tuple[int, float, str]:
    figure = next(each for each in row if each is not None)
    largest = max(number(each.value) for each in row if each is not None)
    return groups[figure.group], -math.inf if figure.key.endswith(".busy") else -largest, figure.key
