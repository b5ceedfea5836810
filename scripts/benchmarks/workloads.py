"""The workloads and their goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import toys

Work = tuple[list[Any], list[Any]]  # stages, initial tasks


@dataclass(frozen=True)
class Workload:
    """One workload. ``make(count)`` returns stages and tasks.

    ``count``: number of tasks; ``slow_count``: the same for Ray's backends. ``calls``: stage-calls per task. ``reach``:
    the goals, as ratios of gpuexec's rate to a peer's, e.g. {"pool": 8.0}.
    """

    name: str
    about: str
    make: Callable[[int], Work]
    count: int
    slow_count: int
    calls: float
    reach: dict[str, float]


def _tiny(batch_size: int) -> Callable[[int], Work]:
    def make(count: int) -> Work:
        stages = [toys.Toy(name, batch_size) for name in ("first", "second", "third")]
        return stages, toys.pieces([b"x" * 64] * count)

    return make


def _startup(stages: int) -> Callable[[int], Work]:
    return lambda _: ([toys.Toy(f"stage{i}") for i in range(stages)], toys.pieces([1]))


def _fan_out(count: int) -> Work:
    return [toys.Fan("fan", 100), toys.Half("half"), toys.Toy("gather", batch_size=100)], toys.pieces(range(count))


def _big(count: int) -> Work:
    adds = [toys.Add(name) for name in ("add1", "add2", "add3")]
    return [toys.MakeArray("make", 2 * 2**20), *adds, toys.Checksum("sum")], toys.pieces(range(count))


def _table(kind: str) -> Callable[[int], Work]:
    def make(count: int) -> Work:
        passes = [toys.Toy(name) for name in ("first", "second", "third")]
        return [toys.MakeTable("make", kind), *passes, toys.CountRows("count")], toys.pieces(range(count))

    return make


def _pipe(count: int) -> Work:
    times = ((0.01, 1), (0.03, 3), (0.01, 1))
    return [toys.Sleep(f"sleep{i}", *given) for i, given in enumerate(times)], toys.pieces(range(count))


WORKLOADS = [
    Workload("startup", "1 task through 1 stage", _startup(1), 1, 1, 1, {"pool": 1.0, "ray": 20.0}),
    Workload("startup-8", "1 task through 8 stages", _startup(8), 1, 1, 8, {"pool": 2.0}),
    Workload("tiny", "64 B tasks, 3 no-op stages, batch_size 1", _tiny(1), 30_000, 1_000, 3, {"pool": 8.0}),
    Workload("tiny-batched", "the same, batch_size 32", _tiny(32), 30_000, 3_000, 3, {"pool": 8.0}),
    Workload("fan-out", "100 tasks into 10,000, half dropped, batches of 100", _fan_out, 100, 10, 201, {"pool": 5.0}),
    Workload(
        "big",
        "16 MiB arrays through 3 stages that add 1",
        _big,
        64,
        16,
        5,
        {"pool": 8.0, "ray": 4.0, "in-process": 0.6},
    ),
    Workload("table-arrow", "10 MB Arrow tables with strings", _table("arrow"), 64, 16, 5, {"pool": 3.0}),
    Workload("table-pandas", "10 MB pandas tables with strings", _table("pandas"), 32, 8, 5, {"pool": 3.0}),
    Workload("pipe", "sleep 10/30/10 ms with 1/3/1 workers", _pipe, 300, 100, 3, {}),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def pipe_bound_s(count: int) -> float:
    """Return the shortest possible makespan of ``pipe``: one task per 10 ms, after 50 ms for the first."""
    return 0.05 + 0.01 * (count - 1)
