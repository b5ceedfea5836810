"""From the present workers to the wanted counts, a few steps at a time and only where it pays.

An evaluation looks at the present only: which workers live, where, and what is left to do. It finds the steps towards
the targets (start workers where resources are free; stop workers of a stage that has too many, where that makes another
one fit), predicts the remaining time with and without them, and proposes them only if the difference is worth the
start-ups. A stopped worker frees its share when its process ends; a later evaluation starts the worker that gets it.

Why it does not oscillate: free resources are used, but workers are never stopped just to free some; a stop needs a
gain well above what noise in the service times can fake, and more so after every proposal that stopped workers.

A stage's only worker is moved if the targets cannot be had otherwise, and if the gain is worth it although nothing
counts as done until the new one is ready.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gpuexec.planning.allocator import Allocator
from gpuexec.planning.ledger import Ledger, WorkerSlots
from gpuexec.planning.model import WorkerGrant
from gpuexec.planning.moves import Candidate, cheapest_stops, repack
from gpuexec.planning.packing import Bins, Effort, SlotsByStage
from gpuexec.planning.placement import place
from gpuexec.planning.request import cpus_of, fits_cpus
from gpuexec.planning.workload import StageSnapshot

# Gains are fractions of the remaining time.
_MIN_START_GAIN = 0.02  # less is within the noise of any measurement
_MIN_STOP_GAIN = 0.10  # where running workers are stopped
_STOP_GAIN_STEP = 0.10  # on top, for every earlier proposal that stopped workers
_MAX_STOP_GAIN = 0.40  # ±20 % measurement error can fake a 33 % gain; above 40 % the gain is real, so stopping ends
_SHORT_SEARCH = 500  # fillings compared for steps that another draft may replace (see `Effort`)
_QUIET_STARTUPS = 2.0  # start-up times without a change before workers are stopped: new stats are in by then


class ActionReason(StrEnum):
    """Why a worker is started or stopped, or why nothing is done."""

    NO_WORKER = "the stage has no worker"
    SLOWEST = "the stage is the slowest, and resources for another worker are free"
    FREES_SHARE = "its share speeds up a slower stage"
    MOVES = "a slower stage needs its GPU, and it can run on another one"
    BALANCED = "every stage has the workers it should have"
    NOTHING_FITS = "no stop would make a worker of a slower stage fit"
    TOO_SOON = "the last change has not shown its effect yet"
    NOT_WORTH_IT = "the gain would not pay for the start-ups"


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start this worker; its share is free now."""

    grant: WorkerGrant
    reason: ActionReason


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Let this worker finish its batches in flight, then stop it."""

    stage_index: int
    worker_id: str
    reason: ActionReason


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to do now, the stops first. ``reason``: why this, or why nothing. ``gain_s``: expected seconds saved."""

    reason: ActionReason
    stops: tuple[StopWorker, ...] = ()
    starts: tuple[StartWorker, ...] = ()
    gain_s: float = 0.0

    @property
    def has_actions(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.stops or self.starts)


def rebalance(
    stages: Sequence[StageSnapshot],
    targets: Sequence[int],
    allocator: Allocator,
    *,
    stopping: Sequence[WorkerGrant] = (),
    taken_ids: Collection[str] = (),
    since_change_s: float = math.inf,
    stop_rounds: int = 0,
) -> Proposal:
    """Propose the next steps from the present workers towards ``targets`` (from `balance`, stage by stage).

    ``stopping``: grants of workers of any stage that are stopping but still hold their share; while there are any,
    no more workers are stopped. ``taken_ids``: worker ids not to be used again, besides those of live workers.
    ``since_change_s``: time since a proposal with actions was last carried out. ``stop_rounds``: how many of those
    stopped workers. Stages with a fixed count and stages that are not measured are left alone.
    """
    return _Evaluation(stages, targets, allocator, stopping, taken_ids).propose(since_change_s, stop_rounds)


@dataclass(slots=True)
class _Draft:
    """The run as it would be after some steps.

    What is free, devices and CPUs: ``now``, at this moment; ``later``, once the stopped workers have ended.
    """

    ledger_now: Ledger
    ledger_later: Ledger
    cpus_now: float
    cpus_later: float
    counts: list[int]
    counts_meanwhile: list[int]  # workers until the new ones are ready
    candidates: list[Candidate]  # live workers that may be stopped
    starts: list[StartWorker] = field(default_factory=list)
    stops: list[StopWorker] = field(default_factory=list)
    growing: set[int] = field(default_factory=set)  # stages that get a worker, now or later


class _Evaluation:
    """One evaluation of all stages. Stages are numbered by their position in ``stages``."""

    def __init__(
        self,
        stages: Sequence[StageSnapshot],
        targets: Sequence[int],
        allocator: Allocator,
        stopping: Sequence[WorkerGrant],
        taken_ids: Collection[str],
    ) -> None:
        self._stages = stages
        self._targets = targets
        self._allocator = allocator
        self._stopping = stopping
        self._taken_ids = {*taken_ids, *(g.worker_id for g in self._held_grants())}
        self._position = {stage.request.stage_index: i for i, stage in enumerate(stages)}
        self._work = [stage.load.work_s for stage in stages]
        self._present_counts = [len(stage.grants) for stage in stages]
        target_cpus = math.fsum(n * cpus_of(s.request) for n, s in zip(targets, stages, strict=True))
        self._budget = max(allocator.usable_cpus, target_cpus)

    def propose(self, since_change_s: float, stop_rounds: int) -> Proposal:
        """Weigh the drafts that stop workers, then the one that does not."""
        if not self._short_stages(self._present()):
            return Proposal(ActionReason.BALANCED)
        without_stops = self._advance(self._present(), may_stop=False)
        if self._short_stages(without_stops):
            without_stops = self._together() or without_stops
        min_gain = min(_MIN_STOP_GAIN + _STOP_GAIN_STEP * stop_rounds, _MAX_STOP_GAIN)
        may_pay = self._stops_may_pay(min_gain)
        reason = ActionReason.TOO_SOON if self._stopping else ActionReason.NOT_WORTH_IT
        if may_pay and not self._stopping and not without_stops.starts:
            reason = ActionReason.NOTHING_FITS
        for draft in self._with_stops() if may_pay else ():
            gain_s = self._gain_s(draft)
            if not self._is_worth(draft, gain_s, min_gain):
                reason = ActionReason.NOT_WORTH_IT
            elif since_change_s < _QUIET_STARTUPS * self._startup_s(draft):
                reason = ActionReason.TOO_SOON
                break
            else:
                return Proposal(draft.stops[0].reason, tuple(draft.stops), tuple(draft.starts), gain_s)
        gain_s = self._gain_s(without_stops)
        if without_stops.starts and self._is_worth(without_stops, gain_s, _MIN_START_GAIN):
            return Proposal(without_stops.starts[0].reason, starts=tuple(without_stops.starts), gain_s=gain_s)
        return Proposal(reason)

    # ---- drafts ------------------------------------------------------------------------------------------

    def _with_stops(self) -> list[_Draft]:
        """Return ways to the targets that stop workers, the best first; none while others are stopping."""
        if self._stopping:
            return []
        in_place = self._advance(self._present(), may_stop=True)
        drafts = [in_place]
        if self._short_stages(in_place):
            moved = self._repacked(keep=1) or self._repacked(keep=0)
            drafts = sorted([in_place, moved], key=self._gain_s, reverse=True) if moved else drafts
        return [draft for draft in drafts if draft.stops]

    def _held_grants(self) -> list[WorkerGrant]:
        return [*(grant for stage in self._stages for grant in stage.grants), *self._stopping]

    def _present(self) -> _Draft:
        """Return the draft without any steps.

        What stopping workers hold is free later. New workers are placed on what is free then, those that do not have to
        wait for it as well: what becomes free first would otherwise go to whom it was not meant for.
        """
        alive = [grant for stage in self._stages for grant in stage.grants]
        ledger_later = self._allocator.ledger_with(alive)
        cpus_later = self._budget - self._cpus_of(alive)
        candidates = [
            Candidate(grant, stage.request, self._allocator.slots_of(grant), stage.startup_s)
            for stage, work in zip(self._stages, self._work, strict=True)
            if stage.load.fixed_count is None and work is not None and stage.startup_s is not None
            for grant in reversed(stage.grants)
        ]
        return _Draft(
            ledger_now=self._allocator.ledger_with(self._held_grants()) if self._stopping else ledger_later,
            ledger_later=ledger_later,
            cpus_now=cpus_later - self._cpus_of(self._stopping),
            cpus_later=cpus_later,
            counts=list(self._present_counts),
            counts_meanwhile=list(self._present_counts),
            candidates=candidates,
        )

    def _cpus_of(self, grants: Sequence[WorkerGrant]) -> float:
        return math.fsum(cpus_of(self._allocator.request(grant.stage_index)) for grant in grants)

    def _short_stages(self, draft: _Draft) -> list[int]:
        """Return the stages that should have more workers."""
        return [
            i
            for i, (stage, n, target) in enumerate(zip(self._stages, draft.counts, self._targets, strict=True))
            if n < target
            and stage.load.fixed_count is None
            and (not n or (self._work[i] is not None and stage.startup_s is not None))
        ]

    def _advance(self, draft: _Draft, *, may_stop: bool) -> _Draft:
        """Add one worker after the other to the stage that is then the slowest, until no stage can have more."""
        full: set[int] = set()
        while short := [i for i in self._short_stages(draft) if i not in full]:
            i = min(short, key=lambda i: (self._throughput(i, draft.counts[i]), i))
            slots = self._place(draft, i)
            if slots is None and may_stop:
                slots = self._place_with_stops(draft, i)
            if slots is None:
                full.add(i)
            else:
                self._add(draft, i, slots, ActionReason.SLOWEST if draft.counts[i] else ActionReason.NO_WORKER)
        return draft

    def _together(self) -> _Draft | None:
        """Start all missing workers where they fit together, though not one after the other on the fullest devices."""
        draft = self._present()
        missing = [(self._stages[i].request, self._targets[i] - draft.counts[i]) for i in self._short_stages(draft)]
        on_gpus = [(request, n) for request, n in missing if request.uses_gpu]
        slots = Bins(draft.ledger_later, [request for request, _ in on_gpus]).pack(on_gpus, Effort(_SHORT_SEARCH)).slots
        if not slots:
            return None
        return self._advance(draft, may_stop=False) if self._add_all(draft, slots) else None

    def _throughput(self, i: int, workers: int) -> float:
        work = self._work[i]
        return workers / work if work else math.inf if workers else 0.0

    def _place(self, draft: _Draft, i: int) -> WorkerSlots | None:
        request = self._stages[i].request
        if not fits_cpus(cpus_of(request), draft.cpus_later):
            return None
        return place(request, draft.ledger_later, self._allocator.node)

    def _place_with_stops(self, draft: _Draft, i: int) -> WorkerSlots | None:
        """Stop workers that their stages can do without, so that a worker of this stage fits."""
        stops = cheapest_stops(
            self._stages[i].request,
            draft.ledger_later,
            self._allocator.node,
            free_cpus=draft.cpus_later,
            candidates=draft.candidates,
            surplus={
                s.request.stage_index: n - target
                for s, n, target in zip(self._stages, draft.counts, self._targets, strict=True)
            },
        )
        if stops is None:
            return None
        self._stop(draft, stops, ActionReason.FREES_SHARE)
        return self._place(draft, i)

    def _add(self, draft: _Draft, i: int, slots: WorkerSlots, reason: ActionReason) -> None:
        """Take the share of a new worker; start it now if no worker has to end before."""
        request = self._stages[i].request
        draft.ledger_later = draft.ledger_later.grant(slots, request)
        draft.cpus_later -= cpus_of(request)
        draft.counts[i] += 1
        draft.growing.add(i)
        fits_now = all(draft.ledger_now.slots[slot].fits(request) for slot in slots)
        if fits_now and fits_cpus(cpus_of(request), draft.cpus_now):
            draft.ledger_now = draft.ledger_now.grant(slots, request)
            draft.cpus_now -= cpus_of(request)
            taken_ids = {*self._taken_ids, *(start.grant.worker_id for start in draft.starts)}
            number = self._allocator.next_number(request.stage_index, taken_ids)
            draft.starts.append(StartWorker(self._allocator.grant(request.stage_index, number, slots), reason))

    def _add_all(self, draft: _Draft, slots_by_stage: SlotsByStage) -> bool:
        """Add workers on these slots; return False if the CPUs do not suffice."""
        for stage_index, workers in slots_by_stage.items():
            i = self._position[stage_index]
            for slots in workers:
                if not fits_cpus(cpus_of(self._stages[i].request), draft.cpus_later):
                    return False
                self._add(draft, i, slots, ActionReason.SLOWEST if draft.counts[i] else ActionReason.NO_WORKER)
        return True

    def _stop(self, draft: _Draft, candidates: Sequence[Candidate], reason: ActionReason) -> None:
        for candidate in candidates:
            stage_index = candidate.request.stage_index
            i = self._position[stage_index]
            draft.ledger_later = draft.ledger_later.release(candidate.slots, candidate.request)
            draft.cpus_later += cpus_of(candidate.request)
            draft.counts[i] -= 1
            draft.counts_meanwhile[i] -= 1
            draft.candidates.remove(candidate)
            draft.stops.append(StopWorker(stage_index, candidate.grant.worker_id, reason))

    def _repacked(self, keep: int) -> _Draft | None:
        """Move workers together, where enough is free for the targets but scattered over the devices.

        ``keep``: as many workers of each stage stay where they are, 0 or 1.
        """
        draft = self._present()
        on_gpus = [candidate for candidate in draft.candidates if candidate.slots]
        movable = {candidate.request for candidate in on_gpus}
        movable |= {request for i in self._short_stages(draft) if (request := self._stages[i].request).uses_gpu}
        wanted = {s.request: n for s, n in zip(self._stages, self._targets, strict=True) if s.request in movable}
        effort = Effort(_SHORT_SEARCH) if keep else Effort()  # as much as finding the targets took
        moves = repack(draft.ledger_later, on_gpus, wanted, effort, keep=keep)
        if moves is None:
            return None
        stops, new_slots = moves
        self._stop(draft, stops, ActionReason.MOVES)
        return self._advance(draft, may_stop=True) if self._add_all(draft, new_slots) else None

    # ---- worth -------------------------------------------------------------------------------------------

    def _stops_may_pay(self, min_gain: float) -> bool:
        """Return whether stops would pay if the targets could be had at once: a quick check first."""
        if not all(self._present_counts):
            return True
        ideal = [max(n, present) for n, present in zip(self._targets, self._present_counts, strict=True)]
        work_left = self._work_left_s()
        return self._duration_s(work_left, ideal) <= (1 - min_gain) * self._duration_s(work_left, self._present_counts)

    def _is_worth(self, draft: _Draft, gain_s: float, min_gain: float) -> bool:
        if any(not self._stages[i].grants for i in draft.growing):
            return True
        remaining_s = self._duration_s(self._work_left_s(), self._present_counts)
        return gain_s > self._startup_s(draft) and gain_s >= min_gain * remaining_s

    def _gain_s(self, draft: _Draft) -> float:
        """Return the seconds by which the remaining work ends sooner.

        While a stage has no worker, all others come to wait for it, so nothing counts as done during the start-ups.
        """
        work_left = self._work_left_s()
        startup_s = self._max_startup_s(draft.growing)
        work_then = work_left
        if math.isfinite(self._duration_s(work_left, draft.counts_meanwhile)):
            work_then = [max(0.0, s - startup_s * n) for s, n in zip(work_left, draft.counts_meanwhile, strict=True)]
        after_s = startup_s + self._duration_s(work_then, draft.counts)
        return self._duration_s(work_left, self._present_counts) - after_s if math.isfinite(after_s) else -math.inf

    def _startup_s(self, draft: _Draft) -> float:
        """Return the start-up time that the steps cost, and that undoing them would."""
        stopped = {self._position[stop.stage_index] for stop in draft.stops}
        return self._max_startup_s(draft.growing) + self._max_startup_s(stopped)

    def _max_startup_s(self, stages: Collection[int]) -> float:
        return max((self._stages[i].startup_s or 0.0 for i in stages), default=0.0)

    def _work_left_s(self) -> list[float]:
        return [stage.work_left_s for stage in self._stages]

    @staticmethod
    def _duration_s(work_s: Sequence[float], workers: Sequence[int]) -> float:
        """Return the seconds until the last stage has done its work."""
        return max((s / n if n else math.inf for s, n in zip(work_s, workers, strict=True) if s), default=0.0)
