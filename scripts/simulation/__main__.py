"""Print the table of docs/planning.md; ``--save`` writes it there."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

from gpuexec.planning.balance import balance, slowest_of
from gpuexec.planning.planner import plan_phases
from gpuexec.planning.workload import StageLoad
from simulation.bound import best_throughput
from simulation.fluid import Run
from simulation.problems import Problem, draw

_SIZES = [(8, 10, False), (8, 20, False), (8, 20, True), (16, 30, False)]
_SIZES += [(32, 40, False), (32, 40, True), (64, 50, False)]
_SEEDS = 10
_LENGTH_S = 600.0
_HEAD = [
    "GPUs",
    "stages",
    "starting plan, % of bound",
    "chosen counts, % of bound",
    "proven best",
    "after a noisy run, % of bound",
    "% of the chosen counts",
    "workers stopped",
    "settled after, s",
    "choosing counts, ms",
    "whole cycle, ms",
]


def _starting(problem: Problem) -> float:
    """Return the throughput of the starting plan's GPU workers, with the best counts for the CPU stages beside them."""
    [phase] = plan_phases(problem.allocator).phases
    counts = {plan.stage_index: len(plan.workers) for plan in phase.stages}
    loads = []
    for load in _loads(problem):
        if load.request.uses_gpu:
            request = load.request.with_fixed_count(counts[load.request.stage_index])
            loads.append(dataclasses.replace(load, request=request))
        else:
            loads.append(load)
    throughput = balance(loads, problem.allocator.ledger, problem.allocator.usable_cpus).throughput
    assert throughput is not None
    return throughput


def _loads(problem: Problem) -> list[StageLoad]:
    return [
        StageLoad(request, workers=1, task_s=task_s, tasks=tasks)
        for request, task_s, tasks in zip(problem.allocator.requests, problem.task_s, problem.tasks, strict=True)
    ]


def _row(gpus: int, stages: int, unequal: bool) -> list[str]:
    starts, chosen, ends, kept, times, cycles, stopped, settled, proven = [], [], [], [], [], [], [], [], 0
    for seed in range(_SEEDS):
        problem = draw(gpus, stages, seed, unequal=unequal)
        bound = best_throughput(problem)
        loads = _loads(problem)
        began = time.process_time()
        best = balance(loads, problem.allocator.ledger, problem.allocator.usable_cpus)
        times.append(time.process_time() - began)
        proven += best.proven
        throughput = slowest_of(loads, best.counts)[1] or 0.0
        assert throughput <= bound * (1 + 1e-6), "no assignment is better than the bound"
        outcome = Run(problem, _LENGTH_S, time.process_time).play()
        starts.append(_starting(problem) / bound)
        chosen.append(throughput / bound)
        ends.append(outcome.throughput / bound)
        kept.append(outcome.throughput / throughput)
        cycles += outcome.cycles_s
        stopped.append(outcome.stopped)
        settled.append(outcome.settled_s)
    return [
        f"{gpus}{' unequal' if unequal else ''}",
        str(stages),
        _percent(starts),
        _percent(chosen),
        f"{proven} of {_SEEDS}",
        _percent(ends),
        _percent(kept),
        f"{statistics.median(stopped):.0f} ({min(stopped)}–{max(stopped)})",
        f"{statistics.median(settled):.0f}",
        _milliseconds(times),
        _milliseconds(cycles),
    ]


def _percent(shares: list[float]) -> str:
    return f"{100 * statistics.median(shares):.0f} ({100 * min(shares):.0f}–{100 * max(shares):.0f})"


def _milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} (≤ {max(seconds) * 1e3:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--save", action="store_true", help="write the table into docs/planning.md")
    save = parser.parse_args().save
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    print("\n".join(lines))
    for gpus, stages, unequal in _SIZES:
        lines.append("| " + " | ".join(_row(gpus, stages, unequal)) + " |")
        print(lines[-1], flush=True)
    if save:
        page = Path(__file__).resolve().parents[2] / "docs" / "planning.md"
        before, _, rest = page.read_text().partition("<!-- table -->")
        after = rest.partition("<!-- end of table -->")[2]
        page.write_text("\n".join([before + "<!-- table -->", "", *lines, "", "<!-- end of table -->" + after]))


if __name__ == "__main__":
    main()
