"""How many workers each stage of a phase may have, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpuexec.hardware.model import Node
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.placement import by_difficulty, place
from gpuexec.plan.request import Request

_MIN_CPUS = 0.25  # a process that asks for (almost) nothing still needs some


@dataclass(frozen=True, slots=True)
class StagePlacement:
    """A stage's workers: the slots of each, and why there are not more."""

    request: Request
    places: tuple[tuple[int, ...], ...]
    reason: str


def cpus_of(request: Request) -> float:
    """CPUs that one worker draws from the budget."""
    return max(request.demand.cpus, _MIN_CPUS)


def place_minimum(
    requests: Sequence[Request], ledger: Ledger, node: Node
) -> tuple[dict[int, list[tuple[int, ...]]], Ledger] | None:
    """Place every stage's own count, or one worker; ``None`` if they do not fit together.

    CPUs do not matter here: they are shared in time, so a pipeline of many light stages runs on few.
    """
    places: dict[int, list[tuple[int, ...]]] = {request.stage: [] for request in requests}
    for request in by_difficulty(requests):
        for _ in range(request.demand.num_workers or 1):
            where = place(request, ledger, node)
            if where is None:
                return None
            ledger = ledger.grant(where, request)
            places[request.stage].append(where)
    return places, ledger


def place_stages(requests: Sequence[Request], ledger: Ledger, node: Node, usable_cpus: float) -> list[StagePlacement]:
    """Give the stages of a phase (which fit, see `place_minimum`) as many workers as are useful.

    GPU stages share the devices max-min fairly: the one with the fewest workers gets the next. A CPU stage may
    grow until it alone could keep all CPUs busy; which stages do grow, the driver decides by their backlog.
    """
    placed = place_minimum(requests, ledger, node)
    assert placed is not None, "phases are made of stages that fit"
    places, ledger = placed
    reasons = {r.stage: _fixed_reason(r) for r in requests}
    growing = [r for r in requests if r.uses_gpu and r.demand.num_workers is None]
    used_cpus = sum(cpus_of(r) * len(places[r.stage]) for r in requests if r.uses_gpu)
    while growing:
        request = min(growing, key=lambda r: (len(places[r.stage]), r.stage))
        where = place(request, ledger, node)
        short_of_cpus = used_cpus + cpus_of(request) > usable_cpus
        if where is None or short_of_cpus:
            count = len(places[request.stage])
            reasons[request.stage] = _full_reason(request, count, usable_cpus, gpus_left=where is not None)
            growing.remove(request)
            continue
        ledger = ledger.grant(where, request)
        places[request.stage].append(where)
        used_cpus += cpus_of(request)
    for request in requests:
        if not request.uses_gpu and request.demand.num_workers is None:
            count = math.ceil(usable_cpus / cpus_of(request))
            places[request.stage] = [()] * count
            reasons[request.stage] = (
                f"up to {count}: {usable_cpus:g} usable CPUs at {cpus_of(request):g} each; started as work waits"
            )
    return [StagePlacement(r, tuple(places[r.stage]), reasons[r.stage]) for r in requests]


def _fixed_reason(request: Request) -> str:
    return f"exactly {request.demand.num_workers}: the stage's own num_workers()"


def _full_reason(request: Request, count: int, usable_cpus: float, *, gpus_left: bool) -> str:
    what = f"{count} × {request.describe()}"
    if gpus_left:
        return f"{what}: {usable_cpus:g} usable CPUs at {cpus_of(request):g} each allow no more"
    return f"{what}: no more fit on the GPUs"
