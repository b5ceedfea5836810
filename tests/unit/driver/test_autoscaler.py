"""What the planner is shown of a run."""

from __future__ import annotations

from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import EndReason, Worker, WorkerEvent
from gpuexec.driver.autoscaler import by_remaining, leaving, snapshot
from gpuexec.plan.forecast import Forecast
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import PlanOptions, StageDemand
from gpuexec.plan.planner import make_allocator, plan_in
from tests.unit.plan.builders import device, node

LOOK = Forecast(tasks=1.0, remaining=10.0)


def room_and_stage(gpus: float = 0.0, workers: int | None = None) -> tuple[Allocator, StageState]:
    devices = [device(i) for i in range(2)] if gpus else []
    room, _ = make_allocator(
        [StageDemand("s", gpus=gpus, num_workers=workers)], devices, node(len(devices)), PlanOptions()
    )
    [phase] = plan_in(room).phases
    return room, StageState(StageSpec(0, "s", 4, b"", uses_gpu=bool(gpus)), phase.stages[0])


def engage(stage: StageState, *, node_setup: bool = False, end_reason: EndReason | None = None) -> Worker:
    """A worker as the tables have it, draining if it has a reason to end."""
    grant = stage.pending_grants[0] if node_setup else stage.pending_grants.popleft()
    name = f"{grant.worker_id}{'-node-setup' if node_setup else ''}"
    worker = Worker(len(stage.workers), name, grant, stage, 0.0, node_setup)
    if end_reason is not None:
        worker.advance(WorkerEvent.DRAIN, end_reason)
    stage.workers[name] = worker
    return worker


def test_a_cpu_stage_begins_with_one_grant_and_a_gpu_stage_with_all():
    assert len(room_and_stage()[1].pending_grants) == 1
    assert len(room_and_stage(gpus=0.5)[1].pending_grants) == 4
    assert len(room_and_stage(workers=3)[1].pending_grants) == 3


def test_every_grant_is_counted_once():
    room, stage = room_and_stage(gpus=0.5)
    setting_up = engage(stage, node_setup=True)
    stays = engage(stage)
    goes = engage(stage, end_reason=EndReason.SURPLUS)
    recycled = engage(stage, end_reason=EndReason.RECYCLED)
    seen = snapshot(stage, room.requests[0], LOOK)
    assert [g.worker_id for g in seen.grants] == [stays.grant.worker_id, recycled.grant.worker_id, "s-3"]
    gone = leaving([setting_up, stays, goes, recycled], [seen])
    assert gone == [goes.grant], "who sets up the node does so with the first worker's grant"
    room.ledger_with([*seen.grants, *gone])


def test_workers_of_a_finished_stage_hold_what_they_have_until_they_end():
    _, stage = room_and_stage(gpus=1.0)
    workers = [engage(stage), engage(stage)]
    assert leaving(workers, []) == [w.grant for w in workers]


def test_a_fixed_stage_that_lost_a_worker_for_good_is_planned_with_the_others():
    room, stage = room_and_stage(gpus=1.0, workers=2)
    engage(stage)
    stage.pending_grants.clear()
    assert snapshot(stage, room.requests[0], LOOK).load.fixed == 1


def test_more_workers_than_batches_find_no_work():
    room, stage = room_and_stage()
    assert snapshot(stage, room.requests[0], LOOK).most == 3
    assert snapshot(stage, room.requests[0], Forecast(1.0, 0.0)).most == 1
    assert snapshot(stage, room.requests[0], Forecast(1.0, None)).most is None


def test_what_is_left_counts_where_it_is_known_everywhere():
    assert by_remaining([Forecast(1.0, 5.0), Forecast(2.0, 30.0)]) == [Forecast(5.0, 5.0), Forecast(30.0, 30.0)]
    unknown = [Forecast(1.0, 5.0), Forecast(None, None)]
    assert by_remaining(unknown) == unknown


def test_a_lost_gpu_leaves_no_place_for_workers():
    room, stage = room_and_stage(gpus=0.5)
    grants = list(stage.pending_grants)
    left = room.without({"GPU-1"})
    assert [slot.device.uuid for slot in left.ledger.slots] == ["GPU-0"]
    there = [g for g in grants if g.allocation.gpus[0].uuid == "GPU-0"]
    assert {left.place_of(g) for g in there} == {(0,)}
    assert room.without(set()) is room
