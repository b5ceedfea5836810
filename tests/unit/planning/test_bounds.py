"""``min_workers``, ``max_workers`` and ``initial_workers`` of a stage."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.errors import ResourcesError
from gpuexec.planning.balance import ThroughputLimit, balance
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.planning.request import request_of
from gpuexec.planning.workload import StageLoad
from tests.unit.planning.nodes import device, node


def planned(demand, devices=(), cpus=8):
    allocator, notes = make_allocator([demand], devices, node(cpus=cpus), PlanOptions())
    plan = plan_phases(allocator, notes)
    return plan.phases[0].stages[0], plan.notes


def test_a_cpu_stage_has_from_its_fewest_to_its_most_workers():
    stage, _ = planned(StageDemand("s", min_workers=2, max_workers=5, initial_workers=3))
    assert (len(stage.workers), stage.fewest, stage.at_first, stage.has_fixed_count) == (5, 2, 3, False)
    assert stage.reason == "2 to 5: its max_workers; starts with 3; grows if it is measured to be the slowest"
    stage, notes = planned(StageDemand("s", min_workers=12))
    assert len(stage.workers) == 12
    assert "min_workers=12 × cpus=1 is more than the 8 usable CPUs" in notes[0]
    stage, _ = planned(StageDemand("s", max_workers=50))
    assert len(stage.workers) == 8


def test_a_gpu_stage_too():
    devices = [device(0), device(1), device(2)]
    stage, _ = planned(StageDemand("s", gpus=0.5, max_workers=4), devices)
    assert len(stage.workers) == 4
    assert "its max_workers" in stage.reason
    with pytest.raises(ResourcesError, match="3 workers of gpus=2 each"):
        planned(StageDemand("s", gpus=2, min_workers=3), devices)


demands = st.builds(
    lambda low, more, cpus: StageDemand(
        "s", cpus=cpus, min_workers=low, max_workers=None if more is None else low + more
    ),
    st.integers(1, 3),
    st.none() | st.integers(0, 4),
    st.sampled_from([0.5, 1.0, 2.0]),
)


@given(st.lists(st.tuples(demands, st.floats(0.001, 10.0), st.integers(1, 6)), min_size=1, max_size=4))
def test_no_stage_gets_fewer_or_more(stages):
    loads = [
        StageLoad(request_of(i, dataclasses.replace(demand, name=f"s{i}")), workers, task_s)
        for i, (demand, task_s, workers) in enumerate(stages)
    ]
    best = balance(loads, Ledger.open([], 0), 16.0)
    for load, count in zip(loads, best.counts, strict=True):
        assert count >= load.fewest
        assert load.most is None or count <= load.most


def test_the_limit_is_named():
    load = StageLoad(request_of(0, StageDemand("s", max_workers=2)), 1, 1.0)
    assert balance([load], Ledger.open([], 0), 16.0).limit is ThroughputLimit.MAX_WORKERS
