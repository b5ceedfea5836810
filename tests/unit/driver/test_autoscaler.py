"""What the planner is shown of a run, and what the autoscaler makes of its answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.core.decide import StartReason, workers_to_start
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import EndReason, Worker, WorkerEvent
from gpuexec.driver import autoscaler
from gpuexec.driver.autoscaler import Autoscaler
from gpuexec.driver.evaluation import Evaluation, snapshot_of, uncounted_grants
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.balance import Balance, ThroughputLimit
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.planning.rebalance import ActionReason, Proposal, StopWorker
from gpuexec.planning.workload import Forecast, by_remaining
from tests.unit.planning.nodes import device, node

FORECAST = Forecast(tasks=1.0, remaining=10.0)


def allocator_and_stage(gpus: float = 0.0, workers: int | None = None) -> tuple[Allocator, StageState]:
    devices = [device(i) for i in range(2)] if gpus else []
    allocator, _ = make_allocator(
        [StageDemand("s", gpus=gpus, num_workers=workers)], devices, node(len(devices)), PlanOptions()
    )
    [phase] = plan_phases(allocator).phases
    return allocator, StageState(StageSpec(0, "s", 4, b"", uses_gpu=bool(gpus)), phase.stages[0])


def engage(stage: StageState, *, node_setup: bool = False, end_reason: EndReason | None = None) -> Worker:
    """A worker in the core's tables, draining if it has a reason to end."""
    grant = stage.pending_grants[0] if node_setup else stage.pending_grants.popleft()
    name = f"{grant.worker_id}{'-node-setup' if node_setup else ''}"
    worker = Worker(len(stage.workers), name, grant, stage, 0.0, node_setup)
    if end_reason is not None:
        worker.advance(WorkerEvent.DRAIN, end_reason)
        worker.grant_withdrawn = end_reason is EndReason.SURPLUS
    stage.workers[name] = worker
    return worker


def stats(seconds: float, batches: int = 1, tasks: int = 4, idle: float = 0.0) -> BatchStats:
    return BatchStats(batches=batches, tasks_in=tasks, process_s=seconds, idle_s=idle)


def test_a_cpu_stage_starts_with_one_grant_and_a_gpu_stage_with_all():
    assert len(allocator_and_stage()[1].pending_grants) == 1
    assert len(allocator_and_stage(gpus=0.5)[1].pending_grants) == 4
    assert len(allocator_and_stage(workers=3)[1].pending_grants) == 3


def test_every_grant_is_counted_once():
    allocator, stage = allocator_and_stage(gpus=0.5, workers=4)
    setting_up = engage(stage, node_setup=True)
    stays = engage(stage)
    stopping = engage(stage, end_reason=EndReason.SURPLUS)
    recycled = engage(stage, end_reason=EndReason.RECYCLED)
    shown = snapshot_of(stage, allocator.requests[0], [FORECAST])
    assert [g.worker_id for g in shown.grants] == [stays.grant.worker_id, recycled.grant.worker_id, "s-3"]
    uncounted = uncounted_grants([setting_up, stays, stopping, recycled], [shown])
    assert uncounted == [stopping.grant], "setup_on_node() runs with the first worker's grant"
    allocator.ledger_with([*shown.grants, *uncounted])


def test_workers_of_a_finished_stage_hold_what_they_have_until_they_end():
    _, stage = allocator_and_stage(gpus=1.0)
    workers = [engage(stage), engage(stage)]
    assert uncounted_grants(workers, []) == [w.grant for w in workers]


def test_a_fixed_stage_that_lost_a_worker_for_good_is_planned_with_the_others():
    allocator, stage = allocator_and_stage(gpus=1.0, workers=2)
    engage(stage)
    stage.pending_grants.clear()
    assert snapshot_of(stage, allocator.requests[0], [FORECAST]).load.fixed_count == 1


def test_more_workers_than_batches_find_no_work():
    allocator, stage = allocator_and_stage()
    assert snapshot_of(stage, allocator.requests[0], [FORECAST]).max_workers == 3
    assert snapshot_of(stage, allocator.requests[0], [Forecast(1.0, 0.0)]).max_workers == 1
    assert snapshot_of(stage, allocator.requests[0], [Forecast(1.0, None)]).max_workers is None


def test_remaining_tasks_count_where_all_stages_know_them():
    assert by_remaining([Forecast(1.0, 5.0), Forecast(2.0, 30.0)]) == [Forecast(5.0, 5.0), Forecast(30.0, 30.0)]
    unknown = [Forecast(1.0, 5.0), Forecast(None, None)]
    assert by_remaining(unknown) == unknown


def test_a_lost_gpu_takes_no_workers():
    allocator, stage = allocator_and_stage(gpus=0.5)
    grants = list(stage.pending_grants)
    left = allocator.without({"GPU-1"})
    assert [slot.device.uuid for slot in left.ledger.slots] == ["GPU-0"]
    on_gpu_0 = [g for g in grants if g.allocation.gpus[0].uuid == "GPU-0"]
    assert {left.slots_of(g) for g in on_gpu_0} == {(0,)}
    assert allocator.without(set()) is allocator


# ---- cycles ----------------------------------------------------------------------------------------------


class Pool:
    """Takes note of what the autoscaler starts and stops."""

    def __init__(self) -> None:
        self.cordoned: set[str] = set()
        self.worker_ids = {"s-0"}
        self.added: list[str] = []
        self.drained: list[str] = []
        self.refuses = False

    def add(self, stage: StageState, grant, _reason: str, _now: float) -> bool:
        if self.refuses:
            return False
        self.added.append(grant.worker_id)
        stage.pending_grants.append(grant)
        engage(stage)
        return True

    def drain(self, stage: StageState, worker_id: str, _now: float) -> None:
        self.drained.append(worker_id)

    def withdraw_pending(self, stage: StageState) -> None:
        stage.pending_grants.clear()


class Cycles:
    """An autoscaler of one CPU stage on 16 CPUs, on a clock of its own."""

    def __init__(self, monkeypatch, tasks_left: int = 10_000) -> None:
        self.now = 100.0
        monkeypatch.setattr(autoscaler, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.allocator, self.stage = allocator_and_stage()
        self.pool = Pool()
        self.emitted: list[events.RunEvent] = []
        self.autoscaler = Autoscaler(self.allocator, self.pool, tasks_left=lambda: tasks_left, emit=self.emitted.append)
        self.autoscaler.begin_phase([self.stage])
        engage(self.stage)
        self.stage.times.add_startup(0.1)

    def run(self) -> list[events.RunEvent]:
        """Report two batches, let the next cycle be due, and return what it emitted."""
        for _ in range(2):
            self.stage.times.add(stats(0.4), warm=True)
        self.autoscaler.batches_finished()
        self.now += 1.0
        self.emitted.clear()
        self.autoscaler.run_cycle_if_due(list(self.stage.workers.values()))
        return list(self.emitted)


def test_a_cycle_reports_what_the_planner_decided_and_only_what_is_new(monkeypatch):
    cycles = Cycles(monkeypatch)
    [first] = cycles.run()
    assert isinstance(first, events.PlanDecided)
    assert (first.at, first.bottleneck, first.limit, first.proven) == (101.0, 0, ThroughputLimit.CPUS, True)
    assert first.reason is ActionReason.SLOWEST
    assert list(first.started) == cycles.pool.added == [f"s-{n}" for n in range(1, 16)]
    assert first.stopped == ()
    assert first.gain_s > 0
    assert first.stages == (events.StageTarget(stage_index=0, workers=1, target=16, task_s=0.1, tasks=10_000.0),)
    assert first.throughput > 0
    [second] = cycles.run()
    assert (second.reason, second.started, second.gain_s) == (ActionReason.BALANCED, (), 0.0)
    assert (second.stages[0].workers, second.stages[0].target) == (16, 16)
    assert cycles.run() == []
    assert len(cycles.pool.added) == 15


def test_stages_that_are_not_measured_are_waited_for_only_for_a_while_whatever_happens_first(monkeypatch):
    cycles = Cycles(monkeypatch)
    cycles.autoscaler.worker_ended()
    cycles.autoscaler.batches_finished()
    assert cycles.autoscaler.next_cycle() == cycles.now + 2.0


def test_a_refused_worker_is_not_asked_for_in_every_cycle(monkeypatch):
    cycles = Cycles(monkeypatch)
    cycles.pool.refuses = True
    assert len(cycles.run()) == 1
    assert cycles.run() == []
    cycles.pool.refuses = False
    cycles.now += 10.0
    assert len(cycles.run()) == 1
    assert len(cycles.pool.added) == 15


def test_the_only_worker_of_a_stage_stays_pending_while_it_has_to_wait(monkeypatch):
    """It waits for its modules to be imported. Without a worker and a grant, the stage would never have one."""
    cycles = Cycles(monkeypatch)
    cycles.stage.workers.clear()
    cycles.pool.refuses = True
    [event] = cycles.run()
    assert event.reason is ActionReason.NO_WORKER
    assert [grant.worker_id for grant in cycles.stage.pending_grants][:1] == list(event.started)[:1]
    assert workers_to_start(cycles.stage.view()) == (1, StartReason.FIRST)


def test_a_stage_without_a_worker_keeps_its_grant_if_it_gets_no_other(monkeypatch):
    cycles = Cycles(monkeypatch)
    cycles.stage.workers.clear()
    pending = cycles.allocator.grant(0, 1, ())
    cycles.stage.pending_grants.append(pending)
    cycles.autoscaler._apply(Proposal(ActionReason.SLOWEST), [cycles.stage], cycles.now)
    assert list(cycles.stage.pending_grants) == [pending]
    engage(cycles.stage)
    cycles.stage.pending_grants.append(cycles.allocator.grant(0, 2, ()))
    cycles.autoscaler._apply(Proposal(ActionReason.SLOWEST), [cycles.stage], cycles.now)
    assert not cycles.stage.pending_grants


def test_a_new_phase_reports_its_first_outcome(monkeypatch):
    cycles = Cycles(monkeypatch)
    cycles.run()
    cycles.run()
    cycles.autoscaler.begin_phase([cycles.stage])
    assert [event.reason for event in cycles.run()] == [ActionReason.BALANCED]


def test_pending_grants_are_given_up_only_when_a_proposal_is_applied(monkeypatch):
    cycles = Cycles(monkeypatch, tasks_left=4)
    pending = cycles.allocator.grant(0, 1, ())
    cycles.stage.pending_grants.append(pending)
    [event] = cycles.run()
    assert event.started == (), "one worker is enough for one batch"
    assert event.stages[0].workers == 1
    assert list(cycles.stage.pending_grants) == [pending]
    cycles = Cycles(monkeypatch)
    cycles.stage.pending_grants.append(cycles.allocator.grant(0, 1, ()))
    assert cycles.run()[0].started
    assert not cycles.stage.pending_grants


def test_a_cycle_without_an_evaluation_reports_nothing(monkeypatch):
    cycles = Cycles(monkeypatch)
    cycles.stage.times.add(stats(0.1, idle=10.0), warm=True)
    assert cycles.run() == [], "its only worker waits for work"


@pytest.mark.parametrize(
    ("gpus", "reason", "gain_s", "notice"),
    [
        (
            0.5,
            ActionReason.FREES_SHARE,
            3.2,
            "stopping workers s-3, s-2: their GPU share speeds up a slower stage (expected gain 3.2 s)",
        ),
        (
            0.0,
            ActionReason.FREES_SHARE,
            float("inf"),
            "stopping workers s-3, s-2: their CPU share speeds up a slower stage",
        ),
        (
            0.5,
            ActionReason.MOVES,
            9.0,
            "stopping workers s-3, s-2: a slower stage needs their GPUs, and they fit on others (expected gain 9.0 s)",
        ),
    ],
)
def test_the_notice_about_stopped_workers(gpus, reason, gain_s, notice):
    allocator, stage = allocator_and_stage(gpus=gpus)
    shown = snapshot_of(stage, allocator.requests[0], [FORECAST])
    stops = tuple(StopWorker(0, worker_id, reason) for worker_id in ("s-3", "s-2"))
    best = Balance(counts=(1,), throughput=1.0, slowest=0, limit=ThroughputLimit.GPUS, proven=True)
    evaluation = Evaluation((shown,), best, Proposal(reason, stops=stops, gain_s=gain_s))
    assert evaluation.stop_notice() == notice
    event = evaluation.event(at=1.0)
    assert event.stopped == ("s-3", "s-2")
    assert event.gain_s == (None if gain_s == float("inf") else gain_s)
