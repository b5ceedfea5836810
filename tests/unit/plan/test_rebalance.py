"""Moving from the workers there are to those there should be: what is proposed, what is not, and that it settles."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpuexec.errors import InternalError
from gpuexec.plan.balance import balance, slowest_of
from gpuexec.plan.eviction import Candidate
from gpuexec.plan.forecast import Forecast, StageProgress, forecast
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import PlanOptions
from gpuexec.plan.planner import make_allocator, plan_in
from gpuexec.plan.rebalance import Proposal, Reason, StageSnapshot, Start, Stop, rebalance
from gpuexec.plan.repack import repack
from tests.unit.plan.nodes import demand, device, node


def room_for(demands, devices=(), cpus=64) -> Allocator:
    room, _ = make_allocator(
        demands, list(devices), node(len(devices), cpus=cpus), PlanOptions(busy_memory_fraction=1.0)
    )
    return room


class Run:
    """A run without processes: proposals are carried out, what is stopped ends a round later."""

    def __init__(self, demands, seconds, devices=(), cpus=64, *, startup_s=5.0, tasks=1e6):
        self.room = room_for(demands, devices, cpus)
        self.seconds = list(seconds)
        self.startup_s = [startup_s] * len(demands) if isinstance(startup_s, float) else startup_s
        self.left = [tasks] * len(demands)
        self.alive = [
            list(stage.workers if stage.fixed or self.room.requests[stage.stage_index].uses_gpu else stage.workers[:1])
            for phase in plan_in(self.room).phases
            for stage in phase.stages
        ]
        self.stopping = []
        self.stop_rounds = 0
        self.history: list[Proposal] = []

    @property
    def counts(self):
        return [len(grants) for grants in self.alive]

    def snapshots(self, seconds=None):
        return [
            StageSnapshot(request, tuple(grants), s, startup, waiting=1, remaining=left)
            for request, grants, s, startup, left in zip(
                self.room.requests, self.alive, seconds or self.seconds, self.startup_s, self.left, strict=True
            )
        ]

    def loads(self, seconds=None):
        return [snapshot.load for snapshot in self.snapshots(seconds)]

    def look(self, seconds=None, since_change_s=math.inf) -> Proposal:
        snapshots = self.snapshots(seconds)
        targets = balance([s.load for s in snapshots], self.room.ledger, self.room.usable_cpus).counts
        return rebalance(
            snapshots,
            targets,
            self.room,
            stopping=self.stopping,
            since_change_s=since_change_s,
            stop_rounds=self.stop_rounds,
        )

    def step(self, seconds=None) -> Proposal:
        self.stopping = []  # their processes have ended
        made = self.look(seconds)
        stops = [a for a in made.actions if isinstance(a, Stop)]
        for stop in stops:
            [grant] = [g for g in self.alive[stop.stage_index] if g.worker_id == stop.worker_id]
            self.alive[stop.stage_index].remove(grant)
            self.stopping.append(grant)
        for start in made.actions:
            if isinstance(start, Start):
                self.alive[start.grant.stage_index].append(start.grant)
        self.stop_rounds += bool(stops)
        self.check()
        self.history.append(made)
        return made

    def check(self):
        """Nothing is given twice, neither share nor name; nobody is left without a worker."""
        everyone = [g for grants in self.alive for g in grants] + self.stopping
        self.room.ledger_with(everyone)
        assert len({g.worker_id for g in everyone}) == len(everyone)
        assert all(self.alive)

    def settle(self, rounds=12):
        for _ in range(rounds):
            if not self.step().actions and not self.stopping:
                return self.counts
        raise AssertionError(self.history)


def captioning(**more):
    demands = [demand("decode"), demand("caption", gpus=1), demand("embed", gpus=0.25), demand("write")]
    return Run(demands, [0.1, 1.0, 0.5, 0.05], [device(i) for i in range(8)], **more)


def test_a_gpu_pipeline_moves_from_its_starting_plan_to_the_best_counts():
    run = captioning()
    assert run.counts == [1, 6, 8, 1]
    first = run.step()
    assert [type(a) for a in first.actions] == [Stop] * 4
    assert first.reason is Reason.MAKES_ROOM
    second = run.step()
    assert [a.grant.worker_id for a in second.actions] == ["caption-6"]
    assert run.settle() == [1, 7, 4, 1]
    assert run.look().reason is Reason.BALANCED


def test_light_stages_grow_at_once():
    run = Run([demand("a"), demand("b"), demand("c")], [0.01, 0.03, 0.01], cpus=6, startup_s=0.4, tasks=500)
    assert [a.grant.worker_id for a in run.step().actions] == ["b-1", "b-2"]
    assert run.settle() == [1, 3, 1]


def test_it_is_not_worth_a_long_set_up_when_little_is_left():
    assert captioning(tasks=600).look().actions
    assert captioning(tasks=600, startup_s=30.0).look() == Proposal((), Reason.NOT_WORTH_IT)
    assert captioning(tasks=6000, startup_s=30.0).look().actions


def test_what_nobody_knows_to_come_is_not_counted_on():
    run = captioning()
    run.left = [None] * 4
    assert run.look().reason is Reason.NOT_WORTH_IT


def test_after_a_change_it_waits_for_its_effect():
    assert captioning().look(since_change_s=19.0).reason is Reason.TOO_SOON
    assert captioning().look(since_change_s=20.0).actions


def test_while_workers_are_stopping_no_more_are_stopped():
    run = captioning()
    run.step()
    assert run.look().reason is Reason.TOO_SOON


def test_every_round_that_stopped_workers_makes_the_next_dearer():
    run = captioning()
    run.stop_rounds = 1
    assert run.look().reason is Reason.NOT_WORTH_IT, "one caption worker more is a gain of 14 %"


def test_stages_of_a_fixed_count_and_without_figures_are_left_alone():
    demands = [demand("a", gpus=1), demand("b", gpus=1, num_workers=4), demand("c", gpus=1)]
    run = Run(demands, [9.0, 0.1, None], [device(i) for i in range(8)])
    assert run.counts == [2, 4, 2]
    assert run.look().actions == ()


def test_the_lighter_set_up_is_given_up():
    demands = [demand("slow", gpus=0.5), demand("heavy", gpus=0.5), demand("light", gpus=0.5)]
    run = Run(demands, [9.0, 0.1, 0.1], [device(i) for i in range(3)], startup_s=[1.0, 60.0, 1.0])
    assert run.counts == [2, 2, 2]
    assert [a.stage_index for a in run.look().actions] == [2, 1], "as many as the slow stage is short of"


def test_a_stage_without_a_worker_gets_one_whatever_it_costs():
    run = Run([demand("a"), demand("b")], [1.0, None], startup_s=100.0, tasks=1)
    run.alive[1] = []
    first = run.look().actions[0]
    assert (first.grant.worker_id, first.reason) == ("b-0", Reason.EMPTY)


def test_a_worker_is_stopped_for_a_stage_without_one():
    run = Run([demand("a", gpus=1), demand("b", gpus=1)], [1.0, None], [device(0), device(1)])
    run.alive = [[run.room.grant(0, 0, (0,)), run.room.grant(0, 1, (1,))], []]
    assert [(a.stage_index, a.reason) for a in run.look().actions] == [(0, Reason.MAKES_ROOM)]


def test_workers_are_moved_where_that_makes_room():
    """One embed worker on each GPU; whole GPUs are wanted, and all the embed workers fit on one."""
    demands = [demand("caption", gpus=1), demand("embed", gpus=0.5)]
    run = Run(demands, [1.0, 0.66], [device(i) for i in range(3)])
    run.alive = [
        [run.room.grant(0, 0, (0,))],
        [run.room.grant(1, 0, (1,)), run.room.grant(1, 1, (2,))],
    ]
    made = run.step()
    assert {type(a) for a in made.actions} == {Stop, Start}
    assert made.reason is Reason.MOVES
    assert run.settle() == [2, 2]
    assert len({g.allocation.device_ids for g in run.alive[1]}) == 1


def test_cpus_are_given_up_for_a_slower_stage():
    run = Run([demand("a"), demand("b")], [1.0, 1.0], cpus=8)
    run.alive = [[run.room.grant(0, n, ()) for n in range(7)], run.alive[1]]
    assert run.settle() == [4, 4]
    assert run.stop_rounds == 1


def test_worker_ids_are_not_given_twice():
    room = room_for([demand("a-1"), demand("a")])
    assert room.next_number(0, ["a-1-0", "a-1-7", "a-3"]) == 8
    assert room.next_number(1, ["a-1-0", "a-1-7", "a-3"]) == 4
    assert room.next_number(1, []) == 0


def test_a_grant_made_later_is_like_the_plans():
    room = room_for([demand("a", gpus=0.5)], [device(0, cpus=(1, 2))])
    [planned] = [s for phase in plan_in(room).phases for s in phase.stages]
    assert room.grant(0, 1, (0,)) == planned.workers[1]


def test_a_share_that_was_never_given_cannot_come_back():
    room = room_for([demand("a", gpus=0.5)], [device(0)])
    request = room.requests[0]
    assert room.ledger.grant((0,), request).release((0,), request).slots == room.ledger.slots
    with pytest.raises(InternalError, match="is not held"):
        room.ledger.release((0,), request)
    foreign = dataclasses.replace(room, ledger=room_for([demand("a", gpus=0.5)], [device(5)]).ledger)
    with pytest.raises(InternalError, match="of no device"):
        room.ledger_with([foreign.grant(0, 0, (0,))])


def test_the_outlook_follows_the_tasks_down():
    assert forecast([StageProgress(10, 30, 2), StageProgress(20, 10, 4), StageProgress(5, 5, 1)], 8) == [
        Forecast(1.0, 10.0),
        Forecast(3.0, 34.0),
        Forecast(1.5, 18.0),
    ]
    assert forecast([StageProgress(0, 0, 2), StageProgress(0, 0, 0)], 8) == [Forecast(1.0, 10.0), Forecast(None, None)]
    assert forecast([StageProgress(1, 1, 2)], None) == [Forecast(1.0, None)]
    assert forecast([StageProgress(0, 0, 0), StageProgress(0, 0, 3)], 0)[1] == Forecast(None, 3.0)


@st.composite
def runs(draw):
    gpus = draw(st.integers(1, 4))
    asks = st.sampled_from(
        [{}, {"gpus": 0.25}, {"gpus": 0.5}, {"gpus": 0.3}, {"gpus": 1}, {"gpus": 2}, {"gpu_memory_gb": 20}]
    )
    count = draw(st.integers(1, 5))
    demands = [
        demand(
            f"s{i}",
            cpus=draw(st.sampled_from([0.25, 1, 2])),
            num_workers=draw(st.sampled_from([None, None, None, 1])),
            **draw(asks.filter(lambda ask: ask.get("gpus", 0) <= gpus)),
        )
        for i in range(count)
    ]
    devices = [device(i, draw(st.sampled_from([24, 80]))) for i in range(gpus)]
    seconds = [draw(st.sampled_from([0.05, 0.2, 0.5, 1.0, 3.0])) for _ in demands]
    startups = [draw(st.sampled_from([0.3, 5.0, 60.0])) for _ in demands]
    run = Run(demands, seconds, devices, draw(st.integers(2, 32)), startup_s=startups)
    run.fits = len(plan_in(run.room).phases) == 1
    return run


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=6, max_size=14),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_moving_together_leaves_every_stage_a_worker_and_what_is_missing_fits(puts, counts):
    room = room_for([demand("a", gpus=1), demand("b", gpus=0.5), demand("c", gpus=0.2)], [device(i) for i in range(3)])
    ledger, here = room.ledger, []
    for stage, slot in puts:
        request = room.requests[stage]
        if ledger.slots[slot].fits(request):
            ledger = ledger.grant((slot,), request)
            here.append(Candidate(room.grant(stage, len(here), (slot,)), request, (slot,), 1.0))
    wanted = {r: n for r, n in zip(room.requests, counts, strict=True) if any(c.request == r for c in here)}
    found = repack(ledger, here, wanted)
    if found is None:
        return
    ended, places = found
    stay = [c for c in here if c not in ended]
    assert {c.request for c in stay} == {c.request for c in here}
    for c in ended:
        ledger = ledger.release(c.slots, c.request)
    for request, n in wanted.items():
        assert n <= sum(c.request == request for c in stay) + len(places[request.stage])
        for place in places[request.stage]:
            ledger = ledger.grant(place, request)


@settings(max_examples=100, deadline=None)
@given(runs())
def test_with_steady_times_it_settles_near_the_best(run):
    assume(run.fits)
    fixed = [(i, g) for i, g in enumerate(run.counts) if run.room.requests[i].demand.num_workers]
    before = slowest_of(run.loads(), run.counts)[1]
    run.settle()
    assert all(run.counts[i] == n for i, n in fixed)
    assert slowest_of(run.loads(), run.counts)[1] >= before
    assert run.stop_rounds <= 3
    if run.look().reason is Reason.BALANCED:
        best = balance(run.loads(), run.room.ledger, run.room.usable_cpus)
        assert slowest_of(run.loads(), run.counts)[1] >= best.throughput


@settings(max_examples=25, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_with_scattering_times_it_does_not_swing(run, random):
    assume(run.fits)
    for _ in range(40):
        run.step([s * random.uniform(0.8, 1.2) for s in run.seconds])
    assert run.stop_rounds <= 6
