"""Room that is there but scattered: which workers to start anew elsewhere so that all that are wanted fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gpuexec.plan.eviction import Candidate
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.packing import Bins, Places
from gpuexec.plan.request import Request

_MAX_ORDERS = 8  # devices that are tried as the last to be emptied


def repack(
    ledger: Ledger, candidates: Sequence[Candidate], wanted: Mapping[Request, int]
) -> tuple[list[Candidate], Places] | None:
    """Choose workers to end, and places for all that are then missing of what is ``wanted``; ``None``: not found.

    Empties one device after the other in thought, those with the least set-up first, until the missing workers
    fit. A stage always keeps one of its workers, so it matters where that is: if emptying all devices but the
    last is not enough, another one is the last. ``ledger``: with everybody alive.
    """
    order = _lightest_first(candidates)
    for last in reversed(order[-_MAX_ORDERS:]):
        slots = [*(slot for slot in order if slot != last), last]
        found = _emptied(ledger, candidates, wanted, slots)
        if found is None:
            continue
        few, many = 0, len(slots)  # what is found with `many` emptied is the best so far
        while many - few > 1:
            middle = (few + many) // 2
            better = _emptied(ledger, candidates, wanted, slots[:middle])
            few, many, found = (middle, many, found) if better is None else (few, middle, better)
        return found
    return None


def _emptied(
    ledger: Ledger, candidates: Sequence[Candidate], wanted: Mapping[Request, int], slots: Sequence[int]
) -> tuple[list[Candidate], Places] | None:
    kept = Counter(c.request for c in candidates)
    ended: list[Candidate] = []
    for slot in slots:
        for candidate in candidates:
            if slot in candidate.slots and candidate not in ended and kept[candidate.request] > 1:
                ended.append(candidate)
                kept[candidate.request] -= 1
                ledger = ledger.release(candidate.slots, candidate.request)
    missing = [(request, max(0, n - kept[request])) for request, n in wanted.items()]
    places = Bins(ledger, list(wanted)).pack(missing).places
    return None if places is None else _without_returns(ended, places)


def _lightest_first(candidates: Sequence[Candidate]) -> list[int]:
    weight: Counter[int] = Counter()
    seconds: dict[int, float] = {}
    for candidate in candidates:
        for slot in candidate.slots:
            weight[slot] += 1
            seconds[slot] = seconds.get(slot, 0.0) + candidate.weight_s
    return sorted(weight, key=lambda slot: (seconds[slot], weight[slot], slot))


def _without_returns(ended: Sequence[Candidate], places: Places) -> tuple[list[Candidate], Places]:
    """Who would start again where he is, stays."""
    moved = []
    for candidate in ended:
        again = places.get(candidate.request.stage, [])
        if candidate.slots in again:
            again.remove(candidate.slots)
        else:
            moved.append(candidate)
    return moved, places
