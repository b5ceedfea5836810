"""Which devices a worker gets, and how many workers each stage of a phase may have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from gpuexec.hardware.model import Node
from gpuexec.hardware.topology import distance
from gpuexec.planning.ledger import Ledger, WorkerSlots
from gpuexec.planning.request import Request, cpus_of
from gpuexec.records import Record

_MAX_SETS = 5000  # sets of GPUs to compare; beyond that, sets are grown greedily (8 of 16 GPUs: 12,870 sets)


class StagePlacement(Record):
    """The slots of each worker of a stage, and the reason for their number."""

    request: Request
    workers: tuple[WorkerSlots, ...]
    reason: str


# ---- one worker ------------------------------------------------------------------------------------------


def place(request: Request, ledger: Ledger, node: Node) -> WorkerSlots | None:
    """Return the slots for one worker, () for a CPU worker, ``None`` if no free slots fit.

    One device: the fullest that still fits, so that whole devices stay free for the workers that need them.
    Several: the set whose members are closest to each other (NVLink, then PCIe switch, then NUMA node); never MIG
    slices, since CUDA shows a process only one.
    """
    if not request.uses_gpu:
        return ()
    if request.count > 1:
        free = [i for i, s in enumerate(ledger.slots) if s.fits(request) and not s.device.is_mig]
        return _closest(free, request.count, ledger, node)
    fitting = [i for i, slot in enumerate(ledger.slots) if slot.fits(request)]
    if not fitting:
        return None
    return (min(fitting, key=lambda i: (ledger.slots[i].workers == 0, ledger.slots[i].free, i)),)


def _closest(free: list[int], count: int, ledger: Ledger, node: Node) -> WorkerSlots | None:
    if len(free) < count:
        return None
    gpu = [slot.device.index for slot in ledger.slots]
    numa = [slot.device.numa_node for slot in ledger.slots]
    distances = {
        (a, b): (*distance(node.link_between(gpu[a], gpu[b])), numa[a] != numa[b])
        for a, b in itertools.permutations(free, 2)
    }

    def spread(chosen: Sequence[int]) -> tuple[int, ...]:
        """Sum over all pairs: kind of link, NVLinks, NUMA nodes crossed (GPUs on one NVSwitch are equally close)."""
        return tuple(map(sum, zip(*(distances[pair] for pair in itertools.combinations(chosen, 2)), strict=True)))

    if math.comb(len(free), count) <= _MAX_SETS:
        return min(itertools.combinations(free, count), key=spread)
    grown = []
    for first in free:
        chosen = [first]
        while len(chosen) < count:
            rest = [i for i in free if i not in chosen]
            chosen.append(min(rest, key=lambda i: (sum(distances[i, j][0] for j in chosen), i)))
        grown.append(tuple(sorted(chosen)))
    return min(grown, key=spread)


# ---- all workers of a phase ------------------------------------------------------------------------------


def place_minimum(
    requests: Sequence[Request], ledger: Ledger, node: Node
) -> tuple[dict[int, list[WorkerSlots]], Ledger] | None:
    """Place as many workers of every stage as it has at least; ``None`` if they do not fit together.

    Return the slots by stage index, and the ledger with them taken. CPUs do not matter here: they are shared in
    time, so a pipeline of many light stages runs on few.
    """
    workers: dict[int, list[WorkerSlots]] = {request.stage_index: [] for request in requests}
    for request in _hardest_first(requests):
        for _ in range(request.demand.fewest):
            slots = place(request, ledger, node)
            if slots is None:
                return None
            ledger = ledger.grant(slots, request)
            workers[request.stage_index].append(slots)
    return workers, ledger


def place_stages(requests: Sequence[Request], ledger: Ledger, node: Node, usable_cpus: float) -> list[StagePlacement]:
    """Give the stages of a phase, which fit together (see `place_minimum`), as many workers as are useful.

    GPU stages share the devices max-min fairly: the stage with the fewest workers gets the next one. A CPU stage
    may grow until it alone could keep all CPUs busy; the measured service times decide which stages do grow.
    """
    placed = place_minimum(requests, ledger, node)
    assert placed is not None, "phases are made of stages that fit"
    workers, ledger = placed
    reasons = {r.stage_index: _fixed_reason(r) for r in requests}
    growing = [r for r in requests if r.uses_gpu and r.demand.num_workers is None]
    used_cpus = sum(cpus_of(r) * len(workers[r.stage_index]) for r in requests if r.uses_gpu)
    while growing:
        request = min(growing, key=lambda r: (len(workers[r.stage_index]), r.stage_index))
        if len(workers[request.stage_index]) == request.demand.most:
            reasons[request.stage_index] = f"{request.demand.most} × {request.describe()}: its max_workers"
            growing.remove(request)
            continue
        slots = place(request, ledger, node)
        short_of_cpus = used_cpus + cpus_of(request) > usable_cpus
        if slots is None or short_of_cpus:
            count = len(workers[request.stage_index])
            reasons[request.stage_index] = _full_reason(request, count, usable_cpus, gpus_left=slots is not None)
            growing.remove(request)
            continue
        ledger = ledger.grant(slots, request)
        workers[request.stage_index].append(slots)
        used_cpus += cpus_of(request)
    for request in requests:
        if not request.uses_gpu and request.demand.num_workers is None:
            count, reasons[request.stage_index] = _cpu_workers(request, usable_cpus)
            workers[request.stage_index] = [()] * count
    return [StagePlacement(r, tuple(workers[r.stage_index]), reasons[r.stage_index]) for r in requests]


def _cpu_workers(request: Request, usable_cpus: float) -> tuple[int, str]:
    """Return how many workers a CPU stage without a fixed count may have, and why that many."""
    demand = request.demand
    fitting = math.ceil(usable_cpus / cpus_of(request))
    count = max(demand.fewest, fitting if demand.most is None else min(fitting, demand.most))
    grows = "; grows if it is measured to be the slowest" if count > (demand.at_first or 1) else ""
    if demand.initial_workers:
        grows = f"; starts with {demand.initial_workers}{grows}"
    if count == demand.min_workers and count >= fitting:
        return count, f"{count}: its min_workers"
    least = f"{demand.min_workers}" if demand.min_workers else "up"
    if count < fitting:
        return count, f"{least} to {count}: its max_workers{grows}"
    return count, f"{least} to {count}: {usable_cpus:g} usable CPUs at {cpus_of(request):g} each{grows}"


def _hardest_first(requests: Sequence[Request]) -> list[Request]:
    """Sort requests so that those which fit on the fewest slots come first."""
    return sorted(requests, key=lambda r: (-r.count, -r.memory, -r.share, r.stage_index))


def _fixed_reason(request: Request) -> str:
    return f"exactly {request.demand.num_workers}: the stage's own num_workers()"


def _full_reason(request: Request, count: int, usable_cpus: float, *, gpus_left: bool) -> str:
    workers = f"{count} × {request.describe()}"
    if gpus_left:
        return f"{workers}: {usable_cpus:g} usable CPUs at {cpus_of(request):g} each allow no more"
    return f"{workers}: no more fit on the GPUs"
