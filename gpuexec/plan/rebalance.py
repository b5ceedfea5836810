"""From the workers there are to the workers there should be, a few steps at a time and only where it pays.

A round looks at the present only: who lives, where, and what is left to do. It finds the steps towards the
targets (start where there is room; stop a worker of a stage that has too many, where that makes room), foretells
the remaining time with and without them, and proposes them only if the difference is worth the set-ups. What was
stopped frees its share when its process ends; a later round starts who gets it.

Why it does not swing: free room is filled but never emptied for its own sake; a stop needs a gain well above
what the scatter of service times feigns, more so with every round that has stopped workers before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gpuexec.plan.counts import cpus_of
from gpuexec.plan.eviction import Candidate, cheapest
from gpuexec.plan.grants import Allocator
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.model import WorkerGrant
from gpuexec.plan.placement import place
from gpuexec.plan.proposal import Proposal, Reason, StageSnapshot, Start, Stop
from gpuexec.plan.repack import repack

_START_GAIN = 0.02  # of the remaining time; less is within what any measurement scatters
_STOP_GAIN = 0.10  # the same, where running workers are given up
_STOP_GAIN_MORE = 0.10  # on top for every round that has stopped workers
_STOP_GAIN_MAX = 0.40  # times that are off by 20 % either way feign a third: what passes this is a gain, so it ends
_QUIET = 2.0  # set-up times without a change before workers are stopped: new figures have come in by then
_ROUNDING = 1e-9

__all__ = ["Proposal", "Reason", "StageSnapshot", "Start", "Stop", "rebalance"]


def rebalance(
    stages: Sequence[StageSnapshot],
    targets: Sequence[int],
    room: Allocator,
    *,
    stopping: Sequence[WorkerGrant] = (),
    taken_ids: Collection[str] = (),
    since_change_s: float = math.inf,
    stop_rounds: int = 0,
) -> Proposal:
    """Propose the next steps from the workers there are towards ``targets`` (of `balance`, stage by stage).

    ``stopping``: grants that still hold their share but are on their way out, of any stage; while there are
    some, nothing more is stopped. ``taken_ids``: worker ids not to be given again, besides those alive.
    ``since_change_s``: since a proposal with actions was last carried out. ``stop_rounds``: how many of those
    stopped workers. Stages of a fixed count and stages without figures are left alone.
    """
    return _Round(stages, targets, room, stopping, taken_ids).propose(since_change_s, stop_rounds)


@dataclass(slots=True)
class _Draft:
    """The run as it would be after some steps.

    ``now``: what is free at this moment; ``then``: what will be once the stopped have ended. CPUs likewise.
    """

    now: Ledger
    then: Ledger
    now_cpus: float
    then_cpus: float
    counts: list[int]
    kept: list[int]  # workers until the new ones are ready
    alive: list[Candidate]
    starts: list[Start] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    begun: set[int] = field(default_factory=set)  # stages that get a worker, now or later


class _Round:
    """One look at all stages. Stages are known by their position in ``stages``."""

    def __init__(
        self,
        stages: Sequence[StageSnapshot],
        targets: Sequence[int],
        room: Allocator,
        stopping: Sequence[WorkerGrant],
        taken_ids: Collection[str],
    ) -> None:
        self._stages = stages
        self._targets = targets
        self._room = room
        self._stopping = stopping
        self._taken = {*taken_ids, *(g.worker_id for g in self._holders())}
        self._position = {stage.request.stage: i for i, stage in enumerate(stages)}
        self._work = [stage.load.work_s for stage in stages]
        place_minimum = math.fsum(n * cpus_of(s.request) for n, s in zip(targets, stages, strict=True))
        self._budget = max(room.usable_cpus, place_minimum)

    def propose(self, since_change_s: float, stop_rounds: int) -> Proposal:
        """Weigh the steps that stop workers, then those that do not."""
        if not self._short(self._present()):
            return Proposal((), Reason.BALANCED)
        free = self._advance(self._present(), may_stop=False)
        share = min(_STOP_GAIN + _STOP_GAIN_MORE * stop_rounds, _STOP_GAIN_MAX)
        reason = Reason.TOO_SOON if self._stopping else Reason.NOT_WORTH_IT
        if self._may_pay(share) and not self._stopping and not free.starts:
            reason = Reason.NO_ROOM
        for draft in self._with_stops() if self._may_pay(share) else ():
            gain = self._gain(draft)
            if not self._is_worth(draft, gain, share):
                reason = Reason.NOT_WORTH_IT
            elif since_change_s < _QUIET * self._setup_s(draft):
                reason = Reason.TOO_SOON
                break
            else:
                return Proposal((*draft.stops, *draft.starts), draft.stops[0].reason, gain)
        gain = self._gain(free)
        if free.starts and self._is_worth(free, gain, _START_GAIN):
            return Proposal(tuple(free.starts), free.starts[0].reason, gain)
        return Proposal((), reason)

    def _with_stops(self) -> list[_Draft]:
        """Ways to the targets that stop workers, the best first; none while others are stopping."""
        if self._stopping:
            return []
        gentle = self._advance(self._present(), may_stop=True)
        drafts = [gentle]
        if self._short(gentle):
            moved = self._repacked()
            drafts = sorted([gentle, moved], key=self._gain, reverse=True) if moved else drafts
        return [draft for draft in drafts if draft.stops]

    def _may_pay(self, share: float) -> bool:
        """Whether the targets would be worth a stop if they could be had at once: a quick look first."""
        if not all(stage.grants for stage in self._stages):
            return True
        left = [stage.work_left_s for stage in self._stages]
        ideal = [max(n, len(s.grants)) for n, s in zip(self._targets, self._stages, strict=True)]
        return self._ends(left, ideal) <= (1 - share) * self._ends(left, [len(s.grants) for s in self._stages])

    def _holders(self) -> list[WorkerGrant]:
        return [*(grant for stage in self._stages for grant in stage.grants), *self._stopping]

    def _present(self) -> _Draft:
        holders = self._holders()
        ledger = self._room.ledger_with(holders)
        used = math.fsum(cpus_of(self._room.requests[grant.stage_index]) for grant in holders)
        counts = [len(stage.grants) for stage in self._stages]
        alive = [
            Candidate(grant, stage.request, self._room.place_of(grant), stage.startup_s)
            for stage, work in zip(self._stages, self._work, strict=True)
            if stage.load.fixed is None and work is not None and stage.startup_s is not None
            for grant in reversed(stage.grants)
        ]
        spare = self._budget - used
        return _Draft(ledger, ledger, spare, spare, counts, list(counts), alive)

    def _short(self, draft: _Draft) -> list[int]:
        """Stages that should have more workers."""
        return [
            i
            for i, (stage, n, target) in enumerate(zip(self._stages, draft.counts, self._targets, strict=True))
            if n < target
            and stage.load.fixed is None
            and (not n or (self._work[i] is not None and stage.startup_s is not None))
        ]

    def _advance(self, draft: _Draft, *, may_stop: bool) -> _Draft:
        """One worker after the other for whoever is slowest then, until nobody can have more."""
        full: set[int] = set()
        while short := [i for i in self._short(draft) if i not in full]:
            i = min(short, key=lambda i: (self._rate(i, draft.counts[i]), i))
            where = self._where(draft, i)
            if where is None and may_stop:
                where = self._make_room(draft, i)
            if where is None:
                full.add(i)
            else:
                reason = Reason.SLOWEST if draft.counts[i] else Reason.EMPTY
                self._put(draft, i, where, reason)
        return draft

    def _rate(self, i: int, workers: int) -> float:
        work = self._work[i]
        return workers / work if work else math.inf if workers else 0.0

    def _where(self, draft: _Draft, i: int) -> tuple[int, ...] | None:
        request = self._stages[i].request
        if cpus_of(request) > draft.then_cpus + _ROUNDING:
            return None
        return place(request, draft.then, self._room.node)

    def _put(self, draft: _Draft, i: int, where: tuple[int, ...], reason: Reason) -> None:
        """Take the room; start the worker if nobody must end before."""
        request = self._stages[i].request
        draft.then = draft.then.grant(where, request)
        draft.then_cpus -= cpus_of(request)
        draft.counts[i] += 1
        draft.begun.add(i)
        fits = all(draft.now.slots[slot].fits(request) for slot in where)
        if fits and cpus_of(request) <= draft.now_cpus + _ROUNDING:
            draft.now = draft.now.grant(where, request)
            draft.now_cpus -= cpus_of(request)
            taken = {*self._taken, *(start.grant.worker_id for start in draft.starts)}
            number = self._room.next_number(request.stage, taken)
            draft.starts.append(Start(self._room.grant(request.stage, number, where), reason))

    def _make_room(self, draft: _Draft, i: int) -> tuple[int, ...] | None:
        """Stop workers that their stages can do without."""
        surplus = {s.request.stage: n - t for s, n, t in zip(self._stages, draft.counts, self._targets, strict=True)}
        request = self._stages[i].request
        ended = cheapest(request, draft.then, self._room.node, draft.then_cpus, draft.alive, surplus)
        if ended is None:
            return None
        self._end(draft, ended, Reason.MAKES_ROOM)
        return self._where(draft, i)

    def _repacked(self) -> _Draft | None:
        """Move workers together, where the room for the targets is there but scattered."""
        draft = self._present()
        on_gpus = [candidate for candidate in draft.alive if candidate.slots]
        movable = {candidate.request for candidate in on_gpus}
        wanted = {s.request: n for s, n in zip(self._stages, self._targets, strict=True) if s.request in movable}
        found = repack(draft.then, on_gpus, wanted)
        if found is None:
            return None
        ended, places = found
        self._end(draft, ended, Reason.MOVES)
        for stage, slots in places.items():
            for where in slots:
                if cpus_of(self._stages[self._position[stage]].request) > draft.then_cpus + _ROUNDING:
                    return None
                self._put(draft, self._position[stage], where, Reason.SLOWEST)
        return self._advance(draft, may_stop=True)

    def _end(self, draft: _Draft, ended: Sequence[Candidate], reason: Reason) -> None:
        for candidate in ended:
            i = self._position[candidate.request.stage]
            draft.then = draft.then.release(candidate.slots, candidate.request)
            draft.then_cpus += cpus_of(candidate.request)
            draft.counts[i] -= 1
            draft.kept[i] -= 1
            draft.alive.remove(candidate)
            draft.stops.append(Stop(candidate.request.stage, candidate.grant.worker_id, reason))

    def _gain(self, draft: _Draft) -> float:
        """Seconds by which the remaining work ends sooner."""
        left = [stage.work_left_s for stage in self._stages]
        setup_s = max((self._stages[i].startup_s or 0.0 for i in draft.begun), default=0.0)
        then = [max(0.0, work - setup_s * n) for work, n in zip(left, draft.kept, strict=True)]
        return self._ends(left, [len(s.grants) for s in self._stages]) - setup_s - self._ends(then, draft.counts)

    @staticmethod
    def _ends(left: Sequence[float], workers: Sequence[int]) -> float:
        """Seconds until the last stage has done its work."""
        return max((work / n if n else math.inf for work, n in zip(left, workers, strict=True) if work), default=0.0)

    def _setup_s(self, draft: _Draft) -> float:
        """Set-up that the steps spend, and that undoing them would."""
        stopped = {stop.stage_index for stop in draft.stops}
        begun = [self._stages[i].startup_s or 0.0 for i in draft.begun]
        ended = [s.startup_s or 0.0 for s in self._stages if s.request.stage in stopped]
        return max(begun, default=0.0) + max(ended, default=0.0)

    def _is_worth(self, draft: _Draft, gain_s: float, share: float) -> bool:
        if any(not self._stages[i].grants for i in draft.begun):
            return True
        remaining = self._ends([stage.work_left_s for stage in self._stages], [len(s.grants) for s in self._stages])
        return gain_s > self._setup_s(draft) and gain_s >= share * remaining
