"""Which workers must go so that another one fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuexec.hardware.model import Node
from gpuexec.plan.counts import cpus_of
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.model import WorkerGrant
from gpuexec.plan.placement import place
from gpuexec.plan.request import Request

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that may be given up, the slots it holds, and the set-up that would be lost with it (seconds)."""

    grant: WorkerGrant
    request: Request
    slots: tuple[int, ...]
    weight_s: float


def cheapest(
    request: Request,
    ledger: Ledger,
    node: Node,
    spare_cpus: float,
    candidates: Sequence[Candidate],
    quota: Mapping[int, int],
) -> list[Candidate] | None:
    """Choose workers whose end makes room for one of ``request``, the least set-up first; ``None``: not possible.

    ``quota``: how many workers each stage can do without.
    """
    pool = sorted(candidates, key=lambda c: c.weight_s)
    chosen: list[Candidate] = []
    while place(request, _without(ledger, chosen), node) is None:
        slot = _easiest_slot(request, _without(ledger, chosen), _open(pool, chosen, quota), quota, chosen)
        if slot is None:
            return None
        chosen += slot
    while not _enough_cpus(request, spare_cpus, chosen):
        rest = _open(pool, chosen, quota)
        if not rest:
            return None
        chosen.append(rest[0])
    for candidate in sorted(chosen, key=lambda c: -c.weight_s):
        others = [c for c in chosen if c is not candidate]
        if _enough_cpus(request, spare_cpus, others) and place(request, _without(ledger, others), node) is not None:
            chosen = others
    return chosen


def _easiest_slot(
    request: Request,
    ledger: Ledger,
    pool: Sequence[Candidate],
    quota: Mapping[int, int],
    chosen: Sequence[Candidate],
) -> list[Candidate] | None:
    """The workers to end on the slot that is made fit for the least."""
    ways = []
    for i, slot in enumerate(ledger.slots):
        if slot.fits(request) or (request.count > 1 and slot.device.is_mig):
            continue
        ended = _clear(i, request, ledger, [c for c in pool if i in c.slots], quota, chosen)
        if ended is not None:
            ways.append(ended)
    return min(ways, key=lambda ended: (sum(c.weight_s for c in ended), len(ended)), default=None)


def _clear(
    slot: int,
    request: Request,
    ledger: Ledger,
    there: Sequence[Candidate],
    quota: Mapping[int, int],
    chosen: Sequence[Candidate],
) -> list[Candidate] | None:
    ended: list[Candidate] = []
    for candidate in there:
        if candidate in _open([candidate], [*chosen, *ended], quota):
            ended.append(candidate)
            ledger = ledger.release(candidate.slots, candidate.request)
            if ledger.slots[slot].fits(request):
                return ended
    return None


def _open(pool: Sequence[Candidate], chosen: Sequence[Candidate], quota: Mapping[int, int]) -> list[Candidate]:
    """Those that can still be chosen."""
    gone = Counter(c.request.stage for c in chosen)
    return [c for c in pool if c not in chosen and gone[c.request.stage] < quota.get(c.request.stage, 0)]


def _without(ledger: Ledger, ended: Sequence[Candidate]) -> Ledger:
    for candidate in ended:
        ledger = ledger.release(candidate.slots, candidate.request)
    return ledger


def _enough_cpus(request: Request, spare_cpus: float, ended: Sequence[Candidate]) -> bool:
    return cpus_of(request) <= spare_cpus + sum(cpus_of(c.request) for c in ended) + _ROUNDING
