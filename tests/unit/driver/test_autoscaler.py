"""What the planner is shown of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.messages import BatchStats
from gpuexec.core.worker_lifecycle import WorkerLifecycle
from gpuexec.driver.autoscaler import by_remaining, leaving, snapshot
from gpuexec.driver.state import StageSpec, StageState, Worker
from gpuexec.plan.forecast import Forecast
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import PlanOptions, StageDemand
from gpuexec.plan.planner import make_allocator, plan_in
from tests.unit.plan.nodes import device, node

LOOK = Forecast(tasks=1.0, remaining=10.0)


def room_and_stage(gpus: float = 0.0, workers: int | None = None) -> tuple[Allocator, StageState]:
    devices = [device(i) for i in range(2)] if gpus else []
    room, _ = make_allocator(
        [StageDemand("s", gpus=gpus, num_workers=workers)], devices, node(len(devices)), PlanOptions()
    )
    [phase] = plan_in(room).phases
    return room, StageState(StageSpec(0, "s", 4, b"", uses_gpu=bool(gpus)), phase.stages[0])


def engage(stage: StageState, **fields) -> Worker:
    """A worker as the tables have it; nothing here speaks to its process."""
    grant = stage.spare[0] if fields.get("node_setup") else stage.spare.popleft()
    name = f"{grant.worker_id}{'-node-setup' if fields.get('node_setup') else ''}"
    worker = Worker(grant, stage, None, WorkerLifecycle(name), None, None, 0.0, None, **fields)
    stage.workers[name] = worker
    return worker


def stats(seconds: float, batches: int = 1, tasks: int = 4, idle: float = 0.0) -> BatchStats:
    return BatchStats(batches=batches, tasks_in=tasks, process_s=seconds, idle_s=idle)


def test_a_cpu_stage_begins_with_one_grant_and_a_gpu_stage_with_all():
    assert len(room_and_stage()[1].spare) == 1
    assert len(room_and_stage(gpus=0.5)[1].spare) == 4
    assert len(room_and_stage(workers=3)[1].spare) == 3


def test_every_grant_is_counted_once():
    room, stage = room_and_stage(gpus=0.5)
    setting_up = engage(stage, node_setup=True)
    stays = engage(stage)
    goes = engage(stage, is_surplus=True, retiring="why")
    recycled = engage(stage, retiring="too large")
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
    stage.spare.clear()
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


def test_the_first_batch_of_a_worker_serves_only_until_there_are_others():
    _, stage = room_and_stage()
    stage.note_pace(stats(9.0), warm=False)
    assert (stage.batch_s, stage.task_s, stage.is_measured) == (9.0, 9.0 / 4, False)
    stage.note_pace(stats(0.02, idle=1.0), warm=True)
    stage.note_pace(stats(9.0, idle=5.0), warm=False)
    assert (stage.batch_s, stage.is_measured) == (0.02, False)
    stage.note_pace(stats(0.04), warm=True)
    assert stage.is_measured
    assert stage.batch_s == pytest.approx(0.03)
    assert (stage.busy_s, stage.idle_s) == (pytest.approx(0.06), 1.0)


def test_one_long_batch_is_enough_and_so_are_many_first_ones():
    _, slow = room_and_stage()
    slow.note_pace(stats(5.0), warm=True)
    assert slow.is_measured
    _, short_lived = room_and_stage()
    for _ in range(10):
        assert not short_lived.is_measured
        short_lived.note_pace(stats(0.1), warm=False)
    assert short_lived.is_measured


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=30))
def test_the_pace_stays_within_what_was_measured(seconds):
    _, stage = room_and_stage()
    for second in seconds:
        stage.note_pace(stats(second), warm=True)
    assert min(seconds) * (1 - 1e-9) <= stage.batch_s <= max(seconds) * (1 + 1e-9)


def test_a_lost_gpu_leaves_no_place_for_workers():
    room, stage = room_and_stage(gpus=0.5)
    grants = list(stage.spare)
    left = room.without({"GPU-1"})
    assert [slot.device.uuid for slot in left.ledger.slots] == ["GPU-0"]
    there = [g for g in grants if g.allocation.gpus[0].uuid == "GPU-0"]
    assert {left.place_of(g) for g in there} == {(0,)}
    assert room.without(set()) is room
