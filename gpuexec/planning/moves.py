"""Which workers to stop so that another one fits, and which to move so that all wanted workers fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuexec.hardware.model import Node
from gpuexec.planning.ledger import Ledger, WorkerSlots
from gpuexec.planning.model import WorkerGrant
from gpuexec.planning.packing import Bins, Effort, SlotsByStage
from gpuexec.planning.placement import place
from gpuexec.planning.request import Request, cpus_of, fits_cpus

_MAX_ORDERS = 8  # devices that are tried as the last one to be emptied


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that may be stopped, the slots it holds, and the start-up that would be lost with it (seconds)."""

    grant: WorkerGrant
    request: Request
    slots: WorkerSlots
    startup_s: float


# ---- one more worker -------------------------------------------------------------------------------------


def cheapest_stops(
    request: Request,
    ledger: Ledger,
    node: Node,
    *,
    free_cpus: float,
    candidates: Sequence[Candidate],
    surplus: Mapping[int, int],
) -> list[Candidate] | None:
    """Choose workers to stop so that one of ``request`` fits, the least start-up first; ``None`` if there are none.

    ``surplus``: by stage index, how many workers the stage can do without.
    """
    cheapest_first = sorted(candidates, key=lambda c: c.startup_s)
    chosen: list[Candidate] = []
    while place(request, _without(ledger, chosen), node) is None:
        remaining = _available(cheapest_first, chosen, surplus)
        stops = _cheapest_slot(request, _without(ledger, chosen), remaining, chosen, surplus)
        if stops is None:
            return None
        chosen += stops
    while not _has_cpus(request, free_cpus, chosen):
        remaining = _available(cheapest_first, chosen, surplus)
        if not remaining:
            return None
        chosen.append(remaining[0])
    for candidate in sorted(chosen, key=lambda c: -c.startup_s):
        others = [c for c in chosen if c is not candidate]
        if _has_cpus(request, free_cpus, others) and place(request, _without(ledger, others), node) is not None:
            chosen = others
    return chosen


def _cheapest_slot(
    request: Request,
    ledger: Ledger,
    candidates: Sequence[Candidate],
    chosen: Sequence[Candidate],
    surplus: Mapping[int, int],
) -> list[Candidate] | None:
    """Return the workers to stop on the slot where the request comes to fit for the least lost start-up."""
    options = []
    for i, slot in enumerate(ledger.slots):
        if slot.fits(request) or (request.count > 1 and slot.device.is_mig):
            continue
        stops = _stops_on(i, request, ledger, candidates, chosen, surplus)
        if stops is not None:
            options.append(stops)
    return min(options, key=lambda stops: (sum(c.startup_s for c in stops), len(stops)), default=None)


def _stops_on(
    slot: int,
    request: Request,
    ledger: Ledger,
    candidates: Sequence[Candidate],
    chosen: Sequence[Candidate],
    surplus: Mapping[int, int],
) -> list[Candidate] | None:
    """Return the workers to stop, in the order of ``candidates``, until the request fits this slot."""
    stops: list[Candidate] = []
    for candidate in candidates:
        if slot in candidate.slots and _available([candidate], [*chosen, *stops], surplus):
            stops.append(candidate)
            ledger = ledger.release(candidate.slots, candidate.request)
            if ledger.slots[slot].fits(request):
                return stops
    return None


def _available(
    candidates: Sequence[Candidate], chosen: Sequence[Candidate], surplus: Mapping[int, int]
) -> list[Candidate]:
    """Return the candidates that can still be chosen."""
    stopped = Counter(c.request.stage_index for c in chosen)
    return [
        c
        for c in candidates
        if c not in chosen and stopped[c.request.stage_index] < surplus.get(c.request.stage_index, 0)
    ]


def _without(ledger: Ledger, stopped: Sequence[Candidate]) -> Ledger:
    for candidate in stopped:
        ledger = ledger.release(candidate.slots, candidate.request)
    return ledger


def _has_cpus(request: Request, free_cpus: float, stopped: Sequence[Candidate]) -> bool:
    return fits_cpus(cpus_of(request), free_cpus + sum(cpus_of(c.request) for c in stopped))


# ---- defragmentation -------------------------------------------------------------------------------------


def repack(
    ledger: Ledger, candidates: Sequence[Candidate], wanted: Mapping[Request, int], effort: Effort, *, keep: int
) -> tuple[list[Candidate], SlotsByStage] | None:
    """Choose workers to stop, and slots for all workers that are then missing of ``wanted``; ``None``: not found.

    Imagines one device after the other emptied, those with the least start-up first, until the missing workers
    fit. ``keep``: as many workers of each stage stay where they are, 0 or 1. With 1 it matters which device the one is
    on: if emptying all devices but the last is not enough, another one becomes the last. ``ledger``: with all
    candidates alive.
    """
    order = _lightest_first(candidates)
    for last in reversed(order[-_MAX_ORDERS:] if keep else order[-1:]):
        slots = [*(slot for slot in order if slot != last), last]
        stopped = _on(slots, candidates, keep)
        new_slots = _fit(ledger, candidates, wanted, stopped, effort)
        if new_slots is not None:
            too_few, enough = 0, len(slots)  # `stopped` and `new_slots` are the answer for the first `enough` slots
            while enough - too_few > 1:
                middle = (too_few + enough) // 2
                fewer = _on(slots[:middle], candidates, keep)
                better = _fit(ledger, candidates, wanted, fewer, effort)
                if better is None:
                    too_few = middle
                else:
                    enough, stopped, new_slots = middle, fewer, better
            return _with_workers_kept(ledger, candidates, wanted, stopped, new_slots, effort)
        if effort.is_spent:
            break
    return None


def _on(slots: Sequence[int], candidates: Sequence[Candidate], keep: int) -> list[Candidate]:
    """Return the workers on these slots, slot by slot, but of no stage the last ``keep`` ones."""
    kept = Counter(c.request for c in candidates)
    stopped: list[Candidate] = []
    for slot in slots:
        for candidate in candidates:
            if slot in candidate.slots and candidate not in stopped and kept[candidate.request] > keep:
                stopped.append(candidate)
                kept[candidate.request] -= 1
    return stopped


def _fit(
    ledger: Ledger,
    candidates: Sequence[Candidate],
    wanted: Mapping[Request, int],
    stopped: Sequence[Candidate],
    effort: Effort,
) -> SlotsByStage | None:
    """Return slots for the workers that are missing once these have been stopped, if they fit."""
    kept = Counter(c.request for c in candidates)
    kept.subtract(c.request for c in stopped)
    missing = [(request, max(0, n - kept[request])) for request, n in wanted.items()]
    return Bins(_without(ledger, stopped), list(wanted)).pack(missing, effort).slots


def _with_workers_kept(
    ledger: Ledger,
    candidates: Sequence[Candidate],
    wanted: Mapping[Request, int],
    stopped: list[Candidate],
    new_slots: SlotsByStage,
    effort: Effort,
) -> tuple[list[Candidate], SlotsByStage]:
    """Keep workers that would be restarted on the slots they hold, and the only ones of stages that fit as well there.

    While a stage has no worker, the whole pipeline waits, so the fewer the better.
    """
    remaining = Counter(c.request for c in candidates)
    remaining.subtract(c.request for c in stopped)
    for candidate in sorted(stopped, key=lambda c: -c.startup_s):
        if effort.is_spent:
            break
        if not remaining[candidate.request]:
            fewer = [c for c in stopped if c is not candidate]
            better = _fit(ledger, candidates, wanted, fewer, effort)
            if better is not None:
                stopped, new_slots = fewer, better
                remaining[candidate.request] += 1
    return _without_returns(stopped, new_slots)


def _lightest_first(candidates: Sequence[Candidate]) -> list[int]:
    """Return the slots, those with the least start-up first."""
    workers: Counter[int] = Counter()
    startup_s: dict[int, float] = {}
    for candidate in candidates:
        for slot in candidate.slots:
            workers[slot] += 1
            startup_s[slot] = startup_s.get(slot, 0.0) + candidate.startup_s
    return sorted(workers, key=lambda slot: (startup_s[slot], workers[slot], slot))


def _without_returns(stopped: Sequence[Candidate], new_slots: SlotsByStage) -> tuple[list[Candidate], SlotsByStage]:
    """Keep workers that would be restarted on the slots they already hold."""
    moved = []
    for candidate in stopped:
        same_stage = new_slots.get(candidate.request.stage_index, [])
        if candidate.slots in same_stage:
            same_stage.remove(candidate.slots)
        else:
            moved.append(candidate)
    return moved, new_slots
