"""What is counted of a run by its events: work without start-up, latencies, energy, and where a short run is cut."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import events
from gpuexec.bench.arrivals import Arrivals
from gpuexec.channel.messages import BatchStats
from gpuexec.hardware.telemetry import GpuSample
from gpuexec.planning.model import Phase, Plan, StagePlan

STARTED = 1000.0


def started(*names: str, fused: dict[int, tuple[int, ...]] | None = None, phases: int = 1) -> events.RunStarted:
    """A run of these stages. ``fused``: the stages that run in the workers of one before them."""
    fused = fused or {}
    inside = {index for indices in fused.values() for index in indices}
    plans = tuple(
        StagePlan(index, name, (), "made up", False, fused=fused.get(index, ()))
        for index, name in enumerate(names)
        if index not in inside
    )
    each = -(-len(plans) // phases)
    in_phases = tuple(Phase(plans[at : at + each]) for at in range(0, len(plans), each))
    return events.RunStarted(STARTED, Plan(in_phases, ()), names)


def finished(
    stage: int,
    began: float,
    ended: float,
    items: int = 1,
    *,
    tasks: int | None = None,
    made: int | None = None,
    ids: tuple[str, ...] = (),
) -> events.BatchesFinished:
    """Batches of a stage, in seconds since the start."""
    tasks = items if tasks is None else tasks
    stats = BatchStats(batches=1, tasks_in=tasks, items=items, began=STARTED + began, ended=STARTED + ended)
    made = tasks if made is None else made
    at = STARTED + ended + 0.001
    return events.BatchesFinished(at, stage, "w-0", (1,), made, 0.0, ended - began, stats, (), ids)


def watched(*seen: events.RunEvent, **options: Any) -> Arrivals:
    arrivals = Arrivals(**options)
    for event in seen:
        arrivals.on_event(event)
    arrivals.close()
    return arrivals


def test_a_run_that_went_to_its_end_takes_as_long_as_its_longest_stage():
    arrivals = watched(
        started("read", "embed"),
        finished(0, 3.0, 3.5, 0, tasks=1, made=2),
        finished(1, 4.0, 6.0, 10, tasks=1),
        finished(1, 5.0, 8.0, 30, tasks=1),
    )
    assert arrivals.items == 40
    assert arrivals.throughput == pytest.approx(40 / 4.0)
    assert arrivals.first_result_s == pytest.approx(6.001)
    assert arrivals.stages[1].items_per_s == pytest.approx(10.0)


def test_the_set_up_of_a_later_stage_does_not_count():
    """The reader is done before the model is loaded."""
    read = [finished(0, float(n), n + 1.0) for n in range(10)]
    embed = [finished(1, 60.0 + 2 * n, 62.0 + 2 * n) for n in range(10)]
    assert watched(started("read", "embed"), *read, *embed).throughput == pytest.approx(0.5)


def test_a_slow_first_stage_limits_although_the_last_one_works_off_what_has_queued():
    """The reader makes one task a second; the model is loaded after 60 s, and then embeds what has waited."""
    read = [finished(0, float(n), n + 1.0) for n in range(72)]
    embed = [finished(1, 60.0 + n / 4, 60.25 + n / 4) for n in range(48)]
    assert watched(started("read", "embed"), *read, *embed).throughput == pytest.approx(1.0)


def test_what_becomes_of_a_task_is_reckoned_with():
    """Half of the documents are dropped; each of the others is four chunks of ten items."""
    filtered = [finished(0, float(n), n + 1.0, made=n % 2) for n in range(20)]
    chunked = [finished(1, 2.0 * n, 2.0 * n + 0.5, made=4) for n in range(10)]
    embedded = [finished(2, n / 2, n / 2 + 0.25, 10, tasks=1) for n in range(40)]
    arrivals = watched(started("filter", "chunk", "embed"), *filtered, *chunked, *embedded)
    assert arrivals.throughput == pytest.approx(20.0, rel=0.02)


def test_phases_take_the_sum_of_their_times():
    seen = [finished(0, 0.0, 10.0, 20), finished(1, 30.0, 40.0, 20)]
    assert watched(started("a", "b", phases=2), *seen).throughput == pytest.approx(1.0)
    assert watched(started("a", "b"), *seen).throughput == pytest.approx(2.0)


def test_a_last_stage_that_returns_nothing_counts_by_what_it_takes_in():
    assert watched(started("write"), finished(0, 0.0, 2.0, 10, made=0)).throughput == pytest.approx(5.0)


def test_a_stage_that_makes_tasks_of_nothing_counts_by_what_it_makes():
    arrivals = watched(started("source"), finished(0, 0.0, 2.0, 0, tasks=1, made=10))
    assert (arrivals.items, arrivals.throughput) == (10, pytest.approx(5.0))


def test_a_run_without_results_has_no_figures():
    for arrivals in (Arrivals(), watched(started("a", "b"), finished(0, 0.0, 1.0))):
        assert arrivals.throughput is arrivals.first_result_s is arrivals.latency(0.5) is None
        assert arrivals.joules_per_item() == (None, False)
    assert watched(started("a"), finished(0, 1.0, 1.0)).throughput is None, "no time has passed"


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.01, 3.0)), min_size=1, max_size=20))
def test_start_up_does_not_change_the_throughput(batches):
    def throughput(start_up_s: float) -> float | None:
        seen: list[events.RunEvent] = [started("a")]
        at = start_up_s
        for items, seconds in batches:
            seen.append(finished(0, at, at + seconds, items))
            at += seconds
        return watched(*seen).throughput

    assert throughput(0.0) == pytest.approx(throughput(500.0), rel=1e-6)


# ---- latency ---------------------------------------------------------------------------------------------


def test_latency_is_from_a_tasks_entry_to_its_exit():
    arrivals = watched(
        started("decode", "embed", "write"),
        finished(0, 1.0, 1.5, 2, ids=("0_0", "0_1")),
        finished(0, 2.0, 2.5, 1, ids=("0_2",)),
        finished(1, 3.0, 4.0, 2, ids=("0_0_0", "0_1_0")),
        finished(2, 5.0, 5.999, 2, ids=("0_0_0_0", "0_2_0_0")),
    )
    assert arrivals.latency(0.0) == pytest.approx(4.0)
    assert arrivals.latency(0.99) == pytest.approx(5.0)


def test_a_task_that_a_source_has_made_enters_when_it_is_made():
    arrivals = watched(
        started("source", "embed"),
        finished(0, 1.0, 1.999, 0, tasks=1, made=9, ids=("0",)),
        finished(1, 3.0, 3.999, 1, ids=("0_7",)),
    )
    assert arrivals.latency(0.5) == pytest.approx(2.0)


def test_the_last_stages_tasks_leave_with_the_batch_of_those_they_are_fused_with():
    arrivals = watched(
        started("decode", "embed", "write", fused={1: (2,)}),
        finished(0, 1.0, 1.5, ids=("0_0",)),
        finished(1, 2.0, 2.999, ids=("0_0_0",)),
        finished(2, 2.5, 2.999),
    )
    assert arrivals.latency(0.5) == pytest.approx(2.0)


def test_a_single_stage():
    assert watched(started("a"), finished(0, 1.0, 1.999, ids=("0_0",))).latency(0.5) == pytest.approx(1.0)
    assert watched(started("a"), finished(0, 1.0, 1.999, 0, tasks=1, made=5, ids=("0",))).latency(0.5) is None


def test_ids_that_do_not_tell_the_way_give_no_latency():
    arrivals = watched(started("a", "b"), finished(0, 1.0, 2.0, ids=("0_0",)), finished(1, 3.0, 4.0, ids=("r8f3",)))
    assert arrivals.latency(0.5) is None


# ---- energy ----------------------------------------------------------------------------------------------


def sampled(at: float, *joules: float | None) -> events.NodeSampled:
    gpus = tuple(
        GpuSample(STARTED + at, n, f"GPU-{n}", energy_mj=None if used is None else int(used * 1000), unknown={})
        for n, used in enumerate(joules)
    )
    return events.NodeSampled(STARTED + at, gpus, ())


def test_energy_is_that_of_the_time_in_which_all_stages_work():
    """100 W while it starts, then 300 W; a second GPU draws 50 W. Two items a second."""
    seen: list[events.RunEvent] = [started("a", "b")]
    for at in range(30):
        seen.append(sampled(float(at), 100.0 * min(at, 5) + 300.0 * max(0, at - 5), 50.0 * at))
        if 6 <= at <= 25:
            seen.append(finished(0, at - 1.0, at - 0.5, 2))
            seen.append(finished(1, at - 1.0, at + 0.0, 2))
    joules, is_short = watched(*seen).joules_per_item()
    assert joules == pytest.approx(350.0 / 2)
    assert not is_short


def test_energy_of_a_short_time_is_marked():
    seen = [started("a"), *(sampled(at / 2, 100.0 * at / 2) for at in range(8)), finished(0, 1.0, 3.0)]
    assert watched(*seen).joules_per_item() == (pytest.approx(200.0), True)


def test_energy_of_which_a_gpu_says_nothing_is_not_known():
    seen = [started("a"), *(sampled(float(at), 100.0 * at, None) for at in range(20)), finished(0, 1.0, 15.0)]
    assert watched(*seen).joules_per_item() == (None, False)


# ---- short runs ------------------------------------------------------------------------------------------


def test_a_run_is_cut_when_its_budget_is_used_up_and_what_follows_does_not_count():
    cut = threading.Event()
    arrivals = Arrivals(0.01, cut.set)
    arrivals.on_event(started("a"))
    assert not arrivals.was_cut
    arrivals.on_event(finished(0, 0.0, 1.0, 10))
    assert cut.wait(30), "the budget begins with the first result"
    assert arrivals.was_cut
    arrivals.on_event(finished(0, 1.0, 9.0, 10))
    assert arrivals.throughput == pytest.approx(10.0)


def test_a_run_that_ends_in_time_is_not_cut():
    cut = threading.Event()
    arrivals = watched(started("a"), finished(0, 0.0, 1.0), budget_s=0.05, cut=cut.set)
    assert not cut.wait(0.2)
    assert not arrivals.was_cut


def test_a_run_in_phases_is_not_cut():
    before = threading.active_count()
    arrivals = Arrivals(0.001, lambda: pytest.fail("its results come in its last phase only"))
    arrivals.on_event(started("a", "b", phases=2))
    arrivals.on_event(finished(1, 0.0, 1.0))
    assert threading.active_count() == before
