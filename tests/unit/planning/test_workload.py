"""CPUs that first workers leave idle."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.planning.balance import balance
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.model import StageDemand
from gpuexec.planning.request import request_of
from gpuexec.planning.workload import StageLoad, effective_cpus


def loads(*task_s: float | None, fixed_count: int | None = None) -> list[StageLoad]:
    return [
        StageLoad(request_of(i, StageDemand(f"s{i}", num_workers=fixed_count)), fixed_count or 1, s)
        for i, s in enumerate(task_s)
    ]


def counts(stages: list[StageLoad], cpus: float) -> tuple[int, ...]:
    return balance(stages, Ledger([]), effective_cpus(stages, cpus)).counts


def test_workers_that_are_all_busy_leave_nothing_idle():
    assert effective_cpus(loads(0.01, 0.03, 0.01), 6) == 6


@pytest.mark.parametrize(("cpus", "heavy"), [(2, 2), (8, 8)])
def test_a_heavy_stage_grows_although_every_cpu_has_a_light_one(cpus, heavy):
    light = [0.001] * 9
    assert counts(loads(1.0, *light), cpus) == (heavy, *[1] * 9)


def test_a_half_busy_worker_counts_half():
    assert effective_cpus(loads(0.5, 1.5), 2) == pytest.approx(2 + 0.5)
    assert effective_cpus(loads(0.25, 0.75, 1.0), 2) == pytest.approx(2 + 0.75 + 0.25)


def test_unmeasured_and_fixed_stages_count_in_full():
    assert effective_cpus(loads(None, None), 4) == 4
    assert effective_cpus(loads(0.001, 1.0, fixed_count=1), 4) == 4


def test_what_a_new_worker_took_bounds_a_stage_that_is_not_measured():
    heavy, new = loads(1.0, None)
    assert effective_cpus([heavy, dataclasses.replace(new, at_most_s=0.25)], 2) == pytest.approx(2 + 0.5)
    assert effective_cpus([heavy, dataclasses.replace(new, at_most_s=0.01)], 2) == 3
    assert effective_cpus([heavy, dataclasses.replace(new, at_most_s=9.0)], 2) == 2


@given(st.lists(st.floats(1e-6, 1e3) | st.none(), min_size=1, max_size=8), st.floats(0.5, 64))
def test_between_the_usable_cpus_and_one_more_per_stage(seconds, cpus):
    assert cpus <= effective_cpus(loads(*seconds), cpus) <= cpus + len(seconds)
