"""What no assignment can exceed: the throughput if workers could be divided at will."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from gpuexec.planning.request import Request, cpus_of
from simulation.problems import Problem


def best_throughput(problem: Problem) -> float:
    """Return source tasks a second by the linear program.

    Unknowns: T, and for each stage and kind of device the number of workers there (CPU stages: one kind). Maximise T
    so that every stage has at least one worker and at least T · task_s · tasks, the workers of each kind of device
    take no more than its devices have, and all workers together no more than the CPUs. Every assignment of whole
    workers satisfies this, so T is a bound (the planner's minimum of CPUs per worker counts, too, and fits in these
    problems).
    """
    allocator = problem.allocator
    kinds = sorted(Counter(slot.device.memory_total_bytes for slot in allocator.ledger.slots).items())
    pairs = [(i, k) for i, r in enumerate(allocator.requests) for k in (range(len(kinds)) if r.uses_gpu else [None])]
    stages = len(allocator.requests)
    # Rows: CPUs, one for each kind of device, then two for each stage. Columns: T, then the pairs (stage, kind).
    rows = lil_matrix((1 + len(kinds) + 2 * stages, 1 + len(pairs)))
    limits = np.zeros(1 + len(kinds) + 2 * stages)
    limits[0] = allocator.usable_cpus
    for k, (_, count) in enumerate(kinds):
        limits[1 + k] = count
    for column, (i, k) in enumerate(pairs, start=1):
        request = allocator.requests[i]
        rows[0, column] = cpus_of(request)
        if k is not None:
            rows[1 + k, column] = _devices_taken(request, kinds[k][0])
        rows[1 + len(kinds) + i, column] = -1
        rows[1 + len(kinds) + stages + i, column] = -1
    for i in range(stages):
        limits[1 + len(kinds) + i] = -1
        rows[1 + len(kinds) + stages + i, 0] = problem.task_s[i] * problem.tasks[i]
    objective = np.zeros(1 + len(pairs))
    objective[0] = -1
    solution = linprog(objective, A_ub=rows.tocsr(), b_ub=limits, method="highs")
    if not solution.success:
        raise RuntimeError(f"{problem.name}: {solution.message}")
    return -float(solution.fun)


def _devices_taken(request: Request, memory_bytes: int) -> float:
    if request.count:
        return float(request.count)
    return request.share / 1000 if request.share else request.memory / memory_bytes
