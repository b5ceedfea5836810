"""From the present workers to the wanted counts: what is proposed, what is not, and that it settles."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpuexec.errors import InternalError
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.balance import balance, slowest_of
from gpuexec.planning.model import PlanOptions
from gpuexec.planning.moves import Candidate, repack
from gpuexec.planning.packing import Effort
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.planning.rebalance import ActionReason, Proposal, rebalance
from gpuexec.planning.workload import Forecast, StageProgress, StageSnapshot, forecast
from tests.unit.planning.nodes import demand, device, node


def allocator_for(demands, devices=(), cpus=64) -> Allocator:
    allocator, _ = make_allocator(
        demands, list(devices), node(len(devices), cpus=cpus), PlanOptions(busy_memory_fraction=1.0)
    )
    return allocator


class Run:
    """A run without processes: proposals are carried out, and stopped workers end a cycle later."""

    def __init__(self, demands, task_s, devices=(), cpus=64, *, startup_s=5.0, tasks=1e6):
        self.allocator = allocator_for(demands, devices, cpus)
        self.task_s = list(task_s)
        self.startup_s = [startup_s] * len(demands) if isinstance(startup_s, float) else startup_s
        self.left = [tasks] * len(demands)
        self.alive = [
            list(
                stage.workers
                if stage.has_fixed_count or self.allocator.requests[stage.stage_index].uses_gpu
                else stage.workers[:1]
            )
            for phase in plan_phases(self.allocator).phases
            for stage in phase.stages
        ]
        self.stopping = []
        self.stop_rounds = 0
        self.history: list[Proposal] = []

    @property
    def counts(self):
        return [len(grants) for grants in self.alive]

    def snapshots(self, task_s=None):
        return [
            StageSnapshot(request, tuple(grants), s, startup, waiting=1, remaining=left)
            for request, grants, s, startup, left in zip(
                self.allocator.requests, self.alive, task_s or self.task_s, self.startup_s, self.left, strict=True
            )
        ]

    def loads(self, task_s=None):
        return [snapshot.load for snapshot in self.snapshots(task_s)]

    def evaluate(self, task_s=None, since_change_s=math.inf) -> Proposal:
        snapshots = self.snapshots(task_s)
        targets = balance([s.load for s in snapshots], self.allocator.ledger, self.allocator.usable_cpus).counts
        return rebalance(
            snapshots,
            targets,
            self.allocator,
            stopping=self.stopping,
            since_change_s=since_change_s,
            stop_rounds=self.stop_rounds,
        )

    def step(self, task_s=None, ends=lambda grant: True) -> Proposal:
        self.stopping = [grant for grant in self.stopping if not ends(grant)]  # the processes of the others have ended
        made = self.evaluate(task_s)
        for stop in made.stops:
            [grant] = [g for g in self.alive[stop.stage_index] if g.worker_id == stop.worker_id]
            self.alive[stop.stage_index].remove(grant)
            self.stopping.append(grant)
        for start in made.starts:
            self.alive[start.grant.stage_index].append(start.grant)
        self.stop_rounds += bool(made.stops)
        self.check()
        self.history.append(made)
        return made

    def check(self):
        """No share and no id is given twice; no stage stays without a worker once all that are stopping have ended."""
        everyone = [g for grants in self.alive for g in grants] + self.stopping
        self.allocator.ledger_with(everyone)
        assert len({g.worker_id for g in everyone}) == len(everyone)
        assert self.stopping or all(self.alive)

    def settle(self, cycles=12):
        for _ in range(cycles):
            if not self.step().has_actions and not self.stopping:
                return self.counts
        raise AssertionError(self.history)


def captioning(**more):
    demands = [demand("decode"), demand("caption", gpus=1), demand("embed", gpus=0.25), demand("write")]
    return Run(demands, [0.1, 1.0, 0.5, 0.05], [device(i) for i in range(8)], **more)


def test_a_gpu_pipeline_moves_from_its_starting_plan_to_the_best_counts():
    run = captioning()
    assert run.counts == [1, 6, 8, 1]
    first = run.step()
    assert (len(first.stops), len(first.starts)) == (4, 0)
    assert first.reason is ActionReason.FREES_SHARE
    second = run.step()
    assert [start.grant.worker_id for start in second.starts] == ["caption-6"]
    assert run.settle() == [1, 7, 4, 1]
    assert run.evaluate().reason is ActionReason.BALANCED


def test_light_stages_grow_at_once():
    run = Run([demand("a"), demand("b"), demand("c")], [0.01, 0.03, 0.01], cpus=6, startup_s=0.4, tasks=500)
    assert [start.grant.worker_id for start in run.step().starts] == ["b-1", "b-2"]
    assert run.settle() == [1, 3, 1]


def test_a_long_startup_is_not_worth_it_when_little_is_left():
    assert captioning(tasks=600).evaluate().has_actions
    assert captioning(tasks=600, startup_s=30.0).evaluate() == Proposal(ActionReason.NOT_WORTH_IT)
    assert captioning(tasks=6000, startup_s=30.0).evaluate().has_actions


def test_tasks_that_are_only_guessed_are_not_counted_on():
    run = captioning()
    run.left = [None] * 4
    assert run.evaluate().reason is ActionReason.NOT_WORTH_IT


def test_after_a_change_it_waits_for_its_effect():
    assert captioning().evaluate(since_change_s=19.0).reason is ActionReason.TOO_SOON
    assert captioning().evaluate(since_change_s=20.0).has_actions


def test_while_workers_are_stopping_no_more_are_stopped():
    run = captioning()
    run.step()
    assert run.evaluate().reason is ActionReason.TOO_SOON


def test_every_proposal_that_stopped_workers_makes_the_next_one_dearer():
    run = captioning()
    run.stop_rounds = 1
    assert run.evaluate().reason is ActionReason.NOT_WORTH_IT, "one more caption worker is a gain of 14 %"


def test_stages_with_a_fixed_count_and_unmeasured_ones_are_left_alone():
    demands = [demand("a", gpus=1), demand("b", gpus=1, num_workers=4), demand("c", gpus=1)]
    run = Run(demands, [9.0, 0.1, None], [device(i) for i in range(8)])
    assert run.counts == [2, 4, 2]
    assert not run.evaluate().has_actions


def test_the_worker_with_the_lighter_startup_is_stopped():
    demands = [demand("slow", gpus=0.5), demand("heavy", gpus=0.5), demand("light", gpus=0.5)]
    run = Run(demands, [9.0, 0.1, 0.1], [device(i) for i in range(3)], startup_s=[1.0, 60.0, 1.0])
    assert run.counts == [2, 2, 2]
    assert [stop.stage_index for stop in run.evaluate().stops] == [2, 1], "as many as the slow stage lacks"


def test_a_stage_without_a_worker_gets_one_whatever_it_costs():
    run = Run([demand("a"), demand("b")], [1.0, None], startup_s=100.0, tasks=1)
    run.alive[1] = []
    first = run.evaluate().starts[0]
    assert (first.grant.worker_id, first.reason) == ("b-0", ActionReason.NO_WORKER)


def test_a_worker_is_stopped_for_a_stage_without_one():
    run = Run([demand("a", gpus=1), demand("b", gpus=1)], [1.0, None], [device(0), device(1)])
    run.alive = [[run.allocator.grant(0, 0, (0,)), run.allocator.grant(0, 1, (1,))], []]
    assert [(stop.stage_index, stop.reason) for stop in run.evaluate().stops] == [(0, ActionReason.FREES_SHARE)]


def test_workers_are_moved_where_others_fit_then():
    """One embed worker on each GPU; whole GPUs are wanted, and all the embed workers fit on one."""
    demands = [demand("caption", gpus=1), demand("embed", gpus=0.5)]
    run = Run(demands, [1.0, 0.66], [device(i) for i in range(3)])
    run.alive = [
        [run.allocator.grant(0, 0, (0,))],
        [run.allocator.grant(1, 0, (1,)), run.allocator.grant(1, 1, (2,))],
    ]
    made = run.step()
    assert made.stops
    assert made.starts
    assert made.reason is ActionReason.MOVES
    assert run.settle() == [2, 2]
    assert len({g.allocation.device_ids for g in run.alive[1]}) == 1


def only_worker_in_the_way(**more):
    """The one place where the slow stage fits a second time is taken by a stage that fits on the small device, too."""
    demands = [demand("slow", gpu_memory_gb=40), demand("quick", gpu_memory_gb=10)]
    run = Run(demands, [1.0, 0.1], [device(0, 40), device(1, 40), device(2, 10)], **more)
    run.alive = [[run.allocator.grant(0, 0, (0,))], [run.allocator.grant(1, 0, (1,))]]
    return run


def test_an_only_worker_is_moved_where_its_stages_gap_is_worth_it():
    run = only_worker_in_the_way(startup_s=5.0, tasks=100)
    made = run.step()
    assert [(stop.worker_id, stop.reason) for stop in made.stops] == [("quick-0", ActionReason.MOVES)]
    assert [start.grant.worker_id for start in made.starts] == ["quick-1"], "its new place is free"
    assert run.settle() == [2, 1]
    assert run.alive[1][0].allocation.gpus[0].index == 2


def test_an_only_worker_stays_where_the_gap_costs_more_than_the_move_gains():
    assert not only_worker_in_the_way(startup_s=30.0, tasks=100).evaluate().has_actions
    assert only_worker_in_the_way(startup_s=30.0, tasks=1000).evaluate().has_actions


def test_what_becomes_free_first_is_kept_for_whom_it_is_meant():
    """Two workers are stopping; while only one has ended, its place goes to the stage that fits nowhere else."""
    demands = [demand("wide", gpu_memory_gb=40), demand("narrow", gpu_memory_gb=10)]
    run = Run(demands, [1.0, 5.0], [device(0, 40), device(1, 10)])
    run.alive = [[], []]
    run.stopping = [run.allocator.grant(1, 7, (1,))]
    first = run.step(ends=lambda grant: False)
    assert [start.grant.worker_id for start in first.starts] == ["wide-0"]
    second = run.step()
    assert [(s.grant.stage_index, s.grant.allocation.gpus[0].index) for s in second.starts] == [(1, 1)]


def test_workers_that_fit_together_but_not_one_after_the_other_start_at_once():
    demands = [demand("a", gpus=0.3, num_workers=3), demand("b", gpus=0.5), demand("c", gpus=0.7)]
    run = Run(demands, [0.1, 1.5, 1.0], [device(i) for i in range(4)])
    places = {0: (0, 2, 3), 1: (3,), 2: (2,)}  # 0.7 is free on one device, and another one is empty
    run.alive = [[run.allocator.grant(i, n, (slot,)) for n, slot in enumerate(slots)] for i, slots in places.items()]
    # One by one, the fullest device first, a worker of b would go where only that of c fits.
    made = run.step()
    assert run.counts == [3, 3, 2]
    assert not made.stops
    assert {start.grant.allocation.gpus[0].index for start in made.starts if start.grant.stage_index == 2} == {0}


def test_cpus_are_given_up_for_a_slower_stage():
    run = Run([demand("a"), demand("b")], [1.0, 1.0], cpus=8)
    run.alive = [[run.allocator.grant(0, n, ()) for n in range(7)], run.alive[1]]
    assert run.settle() == [4, 4]
    assert run.stop_rounds == 1


def test_worker_ids_are_not_given_twice():
    allocator = allocator_for([demand("a-1"), demand("a")])
    assert allocator.next_number(0, ["a-1-0", "a-1-7", "a-3"]) == 8
    assert allocator.next_number(1, ["a-1-0", "a-1-7", "a-3"]) == 4
    assert allocator.next_number(1, []) == 0


def test_a_grant_made_later_equals_the_one_of_the_plan():
    allocator = allocator_for([demand("a", gpus=0.5)], [device(0, cpus=(1, 2))])
    [planned] = [s for phase in plan_phases(allocator).phases for s in phase.stages]
    assert allocator.grant(0, 1, (0,)) == planned.workers[1]


def test_a_share_that_was_never_granted_cannot_be_released():
    allocator = allocator_for([demand("a", gpus=0.5)], [device(0)])
    request = allocator.requests[0]
    assert allocator.ledger.grant((0,), request).release((0,), request).slots == allocator.ledger.slots
    with pytest.raises(InternalError, match="is not held"):
        allocator.ledger.release((0,), request)
    foreign = dataclasses.replace(allocator, ledger=allocator_for([demand("a", gpus=0.5)], [device(5)]).ledger)
    with pytest.raises(InternalError, match="none of the devices"):
        allocator.ledger_with([foreign.grant(0, 0, (0,))])


def test_the_forecast_follows_the_tasks_down():
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
    task_s = [draw(st.sampled_from([0.05, 0.2, 0.5, 1.0, 3.0])) for _ in demands]
    startups = [draw(st.sampled_from([0.3, 5.0, 60.0])) for _ in demands]
    run = Run(demands, task_s, devices, draw(st.integers(2, 32)), startup_s=startups)
    run.fits = len(plan_phases(run.allocator).phases) == 1
    return run


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=6, max_size=14),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.integers(0, 1),
)
def test_repacking_leaves_every_stage_a_worker_and_the_missing_ones_fit(puts, counts, keep):
    allocator = allocator_for(
        [demand("a", gpus=1), demand("b", gpus=0.5), demand("c", gpus=0.2)], [device(i) for i in range(3)]
    )
    ledger, here = allocator.ledger, []
    for stage_index, slot in puts:
        request = allocator.requests[stage_index]
        if ledger.slots[slot].fits(request):
            ledger = ledger.grant((slot,), request)
            here.append(Candidate(allocator.grant(stage_index, len(here), (slot,)), request, (slot,), 1.0))
    wanted = {r: n for r, n in zip(allocator.requests, counts, strict=True) if any(c.request == r for c in here)}
    moves = repack(ledger, here, wanted, Effort(), keep=keep)
    if moves is None:
        return
    ended, new_slots = moves
    stay = [c for c in here if c not in ended]
    assert {c.request for c in stay} == {c.request for c in here} or not keep
    for c in ended:
        ledger = ledger.release(c.slots, c.request)
    for request, n in wanted.items():
        assert n <= sum(c.request == request for c in stay) + len(new_slots[request.stage_index])
        for slots in new_slots[request.stage_index]:
            ledger = ledger.grant(slots, request)


@settings(max_examples=100, deadline=None)
@given(runs())
def test_with_steady_times_it_settles_near_the_best(run):
    assume(run.fits)
    fixed = [(i, g) for i, g in enumerate(run.counts) if run.allocator.requests[i].demand.num_workers]
    before = slowest_of(run.loads(), run.counts)[1]
    run.settle()
    assert all(run.counts[i] == n for i, n in fixed)
    assert slowest_of(run.loads(), run.counts)[1] >= before
    assert run.stop_rounds <= 3
    if run.evaluate().reason is ActionReason.BALANCED:
        best = balance(run.loads(), run.allocator.ledger, run.allocator.usable_cpus)
        assert slowest_of(run.loads(), run.counts)[1] >= best.throughput


@settings(max_examples=25, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_with_noisy_times_it_does_not_oscillate(run, random):
    assume(run.fits)
    for _ in range(40):
        run.step([s * random.uniform(0.8, 1.2) for s in run.task_s], ends=lambda grant: random.random() < 0.5)
    assert run.stop_rounds <= 6
    run.settle()
    assert all(run.alive)
