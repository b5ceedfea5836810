"""What the choice of worker counts is worth: three pipelines without ``num_workers()``, against the best for them.

Stages sleep for their service times, so the machine's cores hardly matter. Every measurement has its own process.

* ``unbalanced``  10/30/10 ms on 6 CPU slots, against every set of fixed counts that could be the best
* ``shift``       the same, but after half of the tasks 30/10/10 ms, against the best fixed counts of each half
* ``gpu-plan``    decode → caption (1 GPU) → embed (0.25) → write on 8 simulated GPUs, against a linear program's bound
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import toys
from benchmarks.report import show_section
from benchmarks.toys import Resources

_ROOT = Path(__file__).parents[2]
_SLOTS = 6
_FIRST, _SECOND = (0.010, 0.030, 0.010), (0.030, 0.010, 0.010)
_GPUS, _GPU_NODE_CPUS = 8, 64
_GPU_PIPELINE = (("decode", 0.040, 0.0), ("caption", 0.140, 1.0), ("embed", 0.080, 0.25), ("write", 0.010, 0.0))
_MAX_ROUNDS = 3  # a round of gpu-plan takes two minutes
_NOISE = 0.2  # service times are off by up to this fraction, either way

Counts = tuple[int | None, ...]
_FREE: Counts = (None, None, None)


class Replay(toys.Toy):
    """A stage that takes the time recorded for each task."""

    def __init__(self, name: str, seconds: Sequence[float], workers: int | None, gpus: float = 0.0) -> None:
        super().__init__(name, workers=workers)
        self.seconds = seconds
        self.resources = Resources(cpus=1.0, gpus=gpus)

    def process(self, task: Any) -> Any:
        time.sleep(self.seconds[task.data])
        return task


@dataclass(frozen=True)
class Row:
    """A line of the report. ``seconds``: median, start-up included; ``startup_s``: the same stages on one task."""

    name: str
    count: int
    seconds: float
    best_s: float
    startup_s: float
    against: str
    max_ratio: float
    chosen: str

    @property
    def ratio(self) -> float:
        """Measured time over the best one, start-up included."""
        return self.seconds / self.best_s


# ---- one run, in a process of its own --------------------------------------------------------------------


def run(case: str, count: int, counts: Counts) -> dict[str, Any]:
    """Run ``count`` tasks; ``counts``: the stages' fixed numbers of workers, ``None`` to let the planner choose."""
    from gpuexec import LocalExecutor, Pipeline

    if case == "gpu-plan":
        times = recorded(count)
        stages = [Replay(name, times[name], n, gpus) for (name, _, gpus), n in zip(_GPU_PIPELINE, counts, strict=True)]
        executor = LocalExecutor(show_progress=False, cpus=_GPU_NODE_CPUS)
    else:
        halves = {"first": (_FIRST, _FIRST), "second": (_SECOND, _SECOND), "shift": (_FIRST, _SECOND)}[case]
        times_of = [[a] * (count - count // 2) + [b] * (count // 2) for a, b in zip(*halves, strict=True)]
        stages = [Replay(f"stage{i}", t, n) for i, (t, n) in enumerate(zip(times_of, counts, strict=True))]
        executor = LocalExecutor(show_progress=False, cpus=_SLOTS)
    began = time.perf_counter()
    results = Pipeline("bench", stages=stages).run(executor, initial_tasks=toys.pieces(range(count))) or []
    seconds = time.perf_counter() - began
    assert len(results) == count
    return {"seconds": seconds, "workers": _workers(executor.last_report)}


def _workers(report: Any) -> str:
    """Return how many workers each stage had in all, and how many of them were stopped before the end."""
    started = [[w.start_reason for w in report.workers if w.stage_index == stage.index] for stage in report.stages]
    stopping = [note.partition(":")[0] for note in report.notes if note.startswith("stopping workers")]
    stopped = sum(names.count(",") + 1 for names in stopping)
    text = "/".join(str(len(reasons)) for reasons in started)
    return f"{text} started" + (f", {stopped} of them stopped before the end" if stopped else "")


def recorded(count: int) -> dict[str, list[float]]:
    """Return the service times of every task in every stage of ``gpu-plan``, always the same."""
    rng = random.Random(0)
    return {name: [mean * rng.uniform(1 - _NOISE, 1 + _NOISE) for _ in range(count)] for name, mean, _ in _GPU_PIPELINE}


def bound_s(count: int) -> float:
    """Return the seconds that ``gpu-plan`` takes at least, by the linear program over the same constraints.

    Maximise T so that every stage has w >= 1 and w >= T times its seconds a task, all w together no more than the
    CPUs, and the GPUs' shares no more than the GPUs. At a given T the smallest w are the best, so the greatest T
    that they allow is the optimum.
    """
    work = {name: statistics.fmean(times) for name, times in recorded(count).items()}

    def fits(rate: float) -> bool:
        workers = {name: max(1.0, rate * work[name]) for name in work}
        gpus = sum(workers[name] * share for name, _, share in _GPU_PIPELINE)
        return sum(workers.values()) <= _GPU_NODE_CPUS and gpus <= _GPUS

    low, high = 0.0, _GPU_NODE_CPUS / min(work.values())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return count / low


# ---- all of them -----------------------------------------------------------------------------------------


def report(cases: Sequence[str], rounds: int, folder: Path, *, quick: bool) -> None:
    """Measure and print. Unless ``quick`` (one round, fewer tasks), write all cases to ``benchmarks.md`` as well."""
    rounds, share = (1, 3) if quick else (min(rounds, _MAX_ROUNDS), 1)
    lines = table([CASES[case](rounds, share) for case in cases]) if cases else []
    show_section("planning", lines, folder, save=not quick and len(cases) == len(CASES))


def _unbalanced(rounds: int, share: int) -> Row:
    count = 300 // share
    candidates = possible_best(_FIRST, _SLOTS)
    measured = _interleaved(rounds, [("first", count, counts) for counts in (_FREE, *candidates)])
    free, *fixed = [_median(runs) for runs in measured]
    best, counts = min(zip(fixed, candidates, strict=True))
    startup_s = _startup(rounds, "first", counts)
    name = "/".join(map(str, counts))
    return Row(
        name="unbalanced",
        count=count,
        seconds=free,
        best_s=best,
        startup_s=startup_s,
        against=f"fixed {name}",
        max_ratio=1.10,
        chosen=measured[0][-1]["workers"],
    )


def _shift(rounds: int, share: int) -> Row:
    count = 1200 // share
    halves = [("first", count // 2, (1, 3, 1)), ("second", count // 2, (3, 1, 1))]
    measured = _interleaved(rounds, [("shift", count, _FREE), *halves])
    free, first, second = [_median(runs) for runs in measured]
    startup_s = _startup(rounds, "first", (1, 3, 1))
    return Row(
        name="shift",
        count=count,
        seconds=free,
        best_s=first + second - startup_s,
        startup_s=startup_s,
        against="fixed 1/3/1, then 3/1/1, one start-up",
        max_ratio=1.15,
        chosen=measured[0][-1]["workers"],
    )


def _gpu_plan(rounds: int, share: int) -> Row:
    count = 6000 // share
    free: Counts = (None,) * len(_GPU_PIPELINE)
    [runs] = _interleaved(rounds, [("gpu-plan", count, free)])
    startup_s = _startup(rounds, "gpu-plan", free)
    return Row(
        name="gpu-plan",
        count=count,
        seconds=_median(runs),
        best_s=bound_s(count),
        startup_s=startup_s,
        against="the bound",
        max_ratio=1.05,
        chosen=runs[-1]["workers"],
    )


CASES = {"unbalanced": _unbalanced, "shift": _shift, "gpu-plan": _gpu_plan}


def possible_best(seconds: Sequence[float], slots: int) -> list[tuple[int, ...]]:
    """Return all counts on these slots whose slowest stage is as fast as that of any other counts."""
    pace = {
        counts: min(n / s for n, s in zip(counts, seconds, strict=True))
        for counts in itertools.product(range(1, slots + 1), repeat=len(seconds))
        if sum(counts) <= slots
    }
    return [counts for counts, rate in pace.items() if rate >= max(pace.values()) * (1 - 1e-9)]


def _startup(rounds: int, case: str, counts: Counts) -> float:
    [runs] = _interleaved(rounds, [(case, 1, counts)])
    return _median(runs)


def _median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] for run in runs)


def _interleaved(rounds: int, jobs: Sequence[tuple[str, int, Counts]]) -> list[list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'scripts'}"}
        if any(case == "gpu-plan" for case, _, _ in jobs):
            env |= _simulated_node(Path(folder))
        measured: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for _ in range(rounds):
            for job, runs in zip(jobs, measured, strict=True):
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.planning", json.dumps(job)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env, cwd=_ROOT)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{job[0]:10} {job[1]:5} {job[2]} {runs[-1]['seconds']:7.2f} s", file=sys.stderr, flush=True)
        return measured


def _simulated_node(folder: Path) -> dict[str, str]:
    """Make eight simulated GPUs, as the tests do; return the variables that make a process see them."""
    sys.path.insert(0, str(_ROOT))
    from tests.nvml_sim import nodes, simulator

    library = simulator.build(folder)
    node = simulator.SimulatedNode(folder / "node.json", nodes.eight_nvlink())
    path = os.environ.get("LD_LIBRARY_PATH", "")
    return {
        simulator.VARIABLE: str(node.path),
        "LD_LIBRARY_PATH": f"{library.parent}:{path}",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table as lines of Markdown."""
    lines = [
        "| workload | tasks | without num_workers() | against | ratio | without start-up | reaches | workers |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        reached = "yes" if row.ratio <= row.max_ratio else "**no**"
        started = row.startup_s if row.name != "gpu-plan" else 0.0  # the bound has none
        bare = (row.seconds - row.startup_s) / (row.best_s - started)
        lines.append(
            f"| {row.name} | {row.count:,} | {row.seconds:.2f} s | {row.against}: {row.best_s:.2f} s | {row.ratio:.3f} "
            f"| {bare:.3f} | {reached}: {row.ratio:.3f} ≤ {row.max_ratio:g} | {row.chosen} |"
        )
    return lines


if __name__ == "__main__":
    _case, _count, _counts = json.loads(sys.argv[1])
    print(json.dumps(run(_case, _count, tuple(_counts))), flush=True)
