"""What no assignment can exceed: the throughput if workers could be divided at will."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from gpuexec.plan.counts import cpus_of
from gpuexec.plan.request import Request
from simulation.problems import Problem


def best_throughput(problem: Problem) -> float:
    """Source tasks a second by the linear program.

    Unknown: T, and for each stage and kind of device the workers there (CPU stages: one kind). Maximise T so that
    every stage has at least one worker and at least T · seconds · tasks, the workers of each kind of device take
    no more than its devices have, and all workers together no more than the CPUs. Every assignment of whole
    workers satisfies this, so T is a bound (the planner's least CPUs count, too, and fit in these problems).
    """
    room = problem.room
    kinds = sorted(Counter(slot.device.memory_total_bytes for slot in room.ledger.slots).items())
    places = [(i, k) for i, r in enumerate(room.requests) for k in (range(len(kinds)) if r.uses_gpu else [None])]
    stages = len(room.requests)
    # Rows: CPUs, one for each kind of device, then two for each stage. Columns: T, then the places.
    rows = lil_matrix((1 + len(kinds) + 2 * stages, 1 + len(places)))
    limits = np.zeros(1 + len(kinds) + 2 * stages)
    limits[0] = room.usable_cpus
    for k, (_, count) in enumerate(kinds):
        limits[1 + k] = count
    for column, (i, k) in enumerate(places, start=1):
        request = room.requests[i]
        rows[0, column] = cpus_of(request)
        if k is not None:
            rows[1 + k, column] = _devices_taken(request, kinds[k][0])
        rows[1 + len(kinds) + i, column] = -1
        rows[1 + len(kinds) + stages + i, column] = -1
    for i in range(stages):
        limits[1 + len(kinds) + i] = -1
        rows[1 + len(kinds) + stages + i, 0] = problem.seconds[i] * problem.tasks[i]
    objective = np.zeros(1 + len(places))
    objective[0] = -1
    solved = linprog(objective, A_ub=rows.tocsr(), b_ub=limits, method="highs")
    if not solved.success:
        raise RuntimeError(f"{problem.name}: {solved.message}")
    return -float(solved.fun)


def _devices_taken(request: Request, memory_bytes: int) -> float:
    if request.count:
        return float(request.count)
    return request.share / 1000 if request.share else request.memory / memory_bytes
