"""How fast tasks pass from stage to stage, and how fast workers start."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpuexec.bench.builtin.machine import conditions
from gpuexec.bench.builtin.model import Figure
from gpuexec.bench.builtin.runs import pieces, results_per_s, seconds_to_first_result
from gpuexec.bench.builtin.stages import Drop, Make, Pass
from gpuexec.report.figures import HIGHER, LOWER
from gpuexec.units import MIB

_DEPENDS_ON = ("cpu", "usable_cpus", "kernel", "python", "gpuexec")
_LARGE = 16 * MIB
_TABLE = 10 * MIB


def transport_figures(machine: Mapping[str, Any], repeats: int, *, full: bool) -> Iterator[Figure]:
    """Measure the passing of small tasks, of large ones, and of tables with strings."""
    small, large = (20_000, 64) if full else (3_000, 24)
    depends_on = conditions(machine, *_DEPENDS_ON)
    yield Figure(
        "transport.small",
        "tasks of 64 bytes through three stages",
        "tasks/s",
        HIGHER,
        _repeated(repeats, lambda: results_per_s([Pass(f"pass{i}") for i in range(3)], pieces([b"x" * 64] * small))),
        conditions=depends_on,
    )
    yield Figure(
        "transport.large",
        "buffers of 16 MiB from stage to stage",
        "MB/s",
        HIGHER,
        _repeated(repeats, lambda: _megabytes_per_s("bytes", _LARGE, large)),
        conditions=depends_on,
    )
    kind = next((name for name in ("pyarrow", "pandas") if importlib.util.find_spec(name)), None)
    tables = Figure(
        "transport.tables", "tables of 10 MiB with strings from stage to stage", "MB/s", HIGHER, conditions=depends_on
    )
    if kind is None:
        yield _not_measured(tables, "neither pyarrow nor pandas is installed")
        return
    table = "arrow" if kind == "pyarrow" else kind
    values = _repeated(repeats, lambda: _megabytes_per_s(table, _TABLE, large))
    yield Figure(
        *(tables.key, tables.name, tables.unit, tables.better, values), conditions={**depends_on, "tables": kind}
    )


def start_figures(machine: Mapping[str, Any], repeats: int) -> Iterator[Figure]:
    """Measure the time from the call to the first result: with new interpreters, and forked from a warm template."""
    depends_on = conditions(machine, *_DEPENDS_ON)
    stages = [Pass("pass")]
    yield Figure(
        "start.spawned",
        "first result of a stage whose worker is spawned",
        "s",
        LOWER,
        _repeated(repeats, lambda: seconds_to_first_result(stages, start_method="spawn")),
        conditions=depends_on,
    )
    seconds_to_first_result(stages)  # leaves the template for the runs that are measured
    yield Figure(
        "start.warm",
        "the same, forked from the template of the run before",
        "s",
        LOWER,
        _repeated(repeats, lambda: seconds_to_first_result(stages)),
        conditions=depends_on,
    )


def _megabytes_per_s(kind: str, size: int, count: int) -> float:
    return results_per_s([Make("make", kind, size), Drop("drop")], pieces(range(count))) * size / 1e6


def _repeated(repeats: int, measure: Callable[[], float]) -> tuple[float, ...]:
    measure()  # the first one imports and warms up
    return tuple(measure() for _ in range(repeats))


def _not_measured(figure: Figure, reason: str) -> Figure:
    return Figure(figure.key, figure.name, figure.unit, figure.better, (), reason, figure.conditions)
