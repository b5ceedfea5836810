"""The workloads and their goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import pipelines, toys

Work = tuple[list[Any], list[Any]]  # stages, initial tasks
Figures = dict[str, float]
CURATOR = "curator-"  # begins the names of the rows with NeMo Curator's tasks and stages


@dataclass(frozen=True)
class Limit:
    """A goal besides the rates: gpuexec's ``figure``, divided by the peer's if one is named, is ``most`` at most."""

    figure: str
    most: float
    text: str
    peer: str | None = None


@dataclass(frozen=True)
class Workload:
    """One workload. ``make(count)`` returns stages and tasks.

    ``count``: number of tasks (documents, files); ``slow_count``: the same for Ray's backends, ``None`` to leave them
    out. ``calls``: stage-calls per task, 0 where they say nothing. ``reach``: the goals, as ratios of gpuexec's rate
    to a peer's, e.g. {"pool": 8.0}. ``library``: "curator" for NeMo Curator's base classes. ``options``: of
    ``LocalExecutor``. ``figures``: what the results say, beside their number. ``memory``: one more run for the memory
    of each peer. ``most_rounds``: of those that take minutes.
    """

    name: str
    about: str
    make: Callable[[int], Work]
    count: int
    calls: float
    reach: dict[str, float]
    limits: tuple[Limit, ...] = ()
    slow_count: int | None = None
    library: str = "native"
    options: tuple[tuple[str, Any], ...] = ()
    figures: Callable[[list[Any]], Figures] | None = None
    memory: bool = False
    most_rounds: int = 5


def _tiny(batch_size: int, workers: int | None = 1) -> Callable[[int], Work]:
    def make(count: int) -> Work:
        stages = [toys.Toy(name, batch_size, workers) for name in ("first", "second", "third")]
        return stages, toys.pieces([b"x" * 64] * count)

    return make


def _startup(stages: int) -> Callable[[int], Work]:
    return lambda _: ([toys.Toy(f"stage{i}") for i in range(stages)], toys.pieces([1]))


def _fan_out(workers: int | None) -> Callable[[int], Work]:
    def make(count: int) -> Work:
        fan, half = toys.Fan("fan", 100, workers), toys.Half("half", workers=workers)
        return [fan, half, toys.Toy("gather", 100, workers)], toys.pieces(range(count))

    return make


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


def _pipe_figures(results: list[Any]) -> Figures:
    """Return the time from the first result to the last, over the shortest possible: 10 ms for each task."""
    ends = [task.data for task in results]
    return {"steady": (max(ends) - min(ends)) / (0.01 * max(1, len(ends) - 1))}


def _keep_one(count: int) -> Work:
    return [toys.MakeBuffers("make"), toys.KeepOne("keep")], toys.pieces(range(count))


def _keep_one_figures(results: list[Any]) -> Figures:
    return {"rss_of_kept": max(task.data for task in results)[1]}


_UNFUSED = (("fusion", "off"),)
_STEADY = Limit("steady", 1.03, "the bound from the first result on")
_CPU = Limit("cpu_s", 1.15, "the CPU seconds", "inline")
_PSS = Limit("workers_pss_mib", 0.15, "the workers' PSS", "unfused")
_KEPT = Limit("rss_of_kept", 1.2, "what is kept")

_NATIVE = [
    Workload("startup", "1 task through 1 stage", _startup(1), 1, 1, {"pool": 1.0, "ray": 20.0}, slow_count=1),
    Workload("startup-8", "1 task through 8 stages", _startup(8), 1, 8, {"pool": 3.0}, slow_count=1),
    Workload(
        "tiny",
        "64 B tasks, 3 no-op stages with 1 worker each, batch_size 1",
        _tiny(1),
        30_000,
        3,
        {"pool": 8.0},
        slow_count=1_000,
        options=_UNFUSED,
    ),
    Workload("tiny-fused", "the same without num_workers()", _tiny(1, None), 30_000, 3, {"pool": 20.0}),
    Workload("tiny-batched", "the same as tiny, batch_size 32", _tiny(32), 300_000, 3, {"pool": 5.0}),
    Workload(
        "fan-out",
        "100 tasks into 10,000, half dropped, batches of 100",
        _fan_out(1),
        100,
        201,
        {"pool": 5.0},
        slow_count=10,
        options=_UNFUSED,
    ),
    Workload("fan-out-fused", "the same without num_workers()", _fan_out(None), 100, 201, {"pool": 20.0}),
    Workload(
        "big",
        "16 MiB arrays through 3 stages that add 1",
        _big,
        64,
        5,
        {"pool": 8.0, "ray": 4.0, "in-process": 0.5},
        slow_count=16,
    ),
    Workload("pipe", "sleep 10/30/10 ms with 1/3/1 workers", _pipe, 300, 3, {}, (_STEADY,), 100, figures=_pipe_figures),
    Workload(
        "small-after-large",
        "one 16 MiB array kept of each 64 MiB task: how much the process grows",
        _keep_one,
        32,
        2,
        {},
        (_KEPT,),
        figures=_keep_one_figures,
    ),
]

_TABLES = [
    Workload("table-arrow", "10 MB Arrow tables with strings", _table("arrow"), 64, 5, {"pool": 3.0}, slow_count=16),
    Workload("table-pandas", "10 MB pandas tables with strings", _table("pandas"), 32, 5, {"pool": 3.0}, slow_count=8),
]

_REAL = [
    Workload(
        name,
        about,
        make,
        10_000,
        pipelines.FILTERS / documents,
        {"inline": 1.7, "unfused": 1.0},
        (_CPU, _PSS),
        library=library,
        memory=True,
        most_rounds=3,
    )
    for name, about, make, documents, library in (
        ("chain-28", "28 light filters, a task for each 2 KB document", pipelines.native_filters, 1, "native"),
        (
            f"{CURATOR}chain-28",
            "28 ScoreFilter, a task for 50 documents of 2 KB",
            pipelines.curator_filters,
            pipelines.DOCUMENTS_PER_TASK,
            "curator",
        ),
    )
]
_REAL += [
    Workload("demo", "examples/curate_docs.py", pipelines.demo, 10_000, 0, {"inline": 1.8}, most_rounds=3),
    Workload(
        f"{CURATOR}demo",
        "examples/curator_text.py",
        pipelines.curator_demo,
        10_000,
        0,
        {"inline": 1.8},
        library="curator",
        most_rounds=3,
    ),
]

_CURATOR = [
    Workload(
        f"{CURATOR}startup-{stages}",
        f"1 task through {stages} of its stages",
        _startup(stages),
        1,
        stages,
        {"pool": times},
        library="curator",
    )
    for stages, times in ((1, 1.0), (3, 2.2), (8, 3.5))
]
_CURATOR += [
    replace(workload, name=CURATOR + workload.name, library="curator", slow_count=None)
    for workload in _NATIVE
    if not workload.name.startswith("startup")
]

WORKLOADS = [*_NATIVE, *_TABLES, *_CURATOR, *_REAL]
BY_NAME = {workload.name: workload for workload in WORKLOADS}
