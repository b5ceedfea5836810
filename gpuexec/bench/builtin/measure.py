"""Measures a machine: one group of figures after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuexec._version import __version__
from gpuexec.bench.builtin import gpu, host, machine, planner, transport
from gpuexec.bench.builtin.model import Figure, MachineResult
from gpuexec.hardware.model import Node

_REPEATS, _FULL_REPEATS = 5, 10
_LOAD_S, _FULL_LOAD_S = 5.0, 20.0  # for which GPUs are kept busy

Groups = Sequence[tuple[str, Callable[[], Iterator[Figure]]]]


def measure_machine(
    folders: Sequence[Path], *, full: bool = False, begins: Callable[[str], None] = lambda _: None
) -> MachineResult:
    """Measure this machine. Quick, it takes less than about 90 s, unless there are many GPUs.

    ``folders``: on the disks to measure. ``full``: more and longer repeats. ``begins``: is told each group.
    """
    node, facts = machine.this_machine()
    return measure_groups(groups_of(node, facts, folders, full=full), facts, full=full, begins=begins)


def groups_of(node: Node, facts: Mapping[str, Any], folders: Sequence[Path], *, full: bool) -> Groups:
    """Return the groups of figures, in the order in which they are measured: those that need a quiet GPU come first."""
    repeats = _FULL_REPEATS if full else _REPEATS
    load_s = _FULL_LOAD_S if full else _LOAD_S
    return [
        ("GPUs", lambda: gpu.gpu_figures(facts, repeats, load_s=load_s)),
        ("transport", lambda: transport.transport_figures(facts, repeats, full=full)),
        ("start of workers", lambda: transport.start_figures(facts, repeats)),
        ("planner", lambda: planner.planner_figures(facts, repeats)),
        ("memory", lambda: host.memory_figures(facts, node.host.memory_available_bytes, repeats)),
        *((f"disk of {folder}", _disk(folder, repeats, full=full)) for folder in folders),
    ]


def measure_groups(
    groups: Groups, facts: Mapping[str, Any], *, full: bool, begins: Callable[[str], None]
) -> MachineResult:
    """Measure groups one after the other. What other processes did meanwhile is noted on each figure."""
    started_at, began = time.time(), time.monotonic()
    figures: list[Figure] = []
    for name, measure in groups:
        begins(name)
        figures += _watched(measure(), float(facts["usable_cpus"]))
    return MachineResult(started_at, time.monotonic() - began, full, __version__, facts, tuple(figures))


def _watched(figures: Iterator[Figure], usable_cpus: float) -> Iterator[Figure]:
    while True:
        disturbance = machine.Disturbance(usable_cpus)
        figure = next(figures, None)
        if figure is None:
            return
        yield replace(figure, doubts=(*figure.doubts, *disturbance.doubts())) if figure.values else figure


def _disk(folder: Path, repeats: int, *, full: bool) -> Callable[[], Iterator[Figure]]:
    return lambda: host.disk_figures(folder, repeats, full=full)
