"""Worker counts from measured times: by example, and against trying all counts on all devices."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.errors import InternalError
from gpuexec.hardware.model import ComputeMode
from gpuexec.planning.balance import ThroughputLimit, balance, slowest_of
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.packing import Bins
from gpuexec.planning.request import request_of
from gpuexec.planning.workload import StageLoad
from tests.unit.planning.nodes import GIB, demand, device


def load(stage_index=0, task_s=1.0, workers=1, tasks=1.0, max_workers=None, **ask) -> StageLoad:
    request = request_of(stage_index, demand(f"s{stage_index}", **ask))
    return StageLoad(request, workers, task_s, tasks, max_workers)


def gpus(count: int, memory_gib: float = 80) -> Ledger:
    return Ledger.open([device(i, memory_gib) for i in range(count)])


NONE = Ledger.open([])


def test_three_sleeping_stages():
    best = balance([load(0, 0.01), load(1, 0.03), load(2, 0.01)], NONE, 6)
    assert best.counts == (1, 3, 1), "a sixth worker would not raise the throughput"
    assert (best.throughput, best.slowest) == (pytest.approx(100), 0)
    assert best.limit is ThroughputLimit.CPUS
    assert balance([load(0, 0.01), load(1, 0.03), load(2, 0.01)], NONE, 10).counts == (2, 6, 2)


def test_a_gpu_pipeline():
    stages = [load(0, 0.1), load(1, 1.0, gpus=1), load(2, 0.5, gpus=0.25), load(3, 0.05)]
    best = balance(stages, gpus(8), 64)
    assert best.counts == (1, 7, 4, 1)
    assert (best.throughput, best.slowest, best.limit, best.proven) == (
        pytest.approx(7),
        1,
        ThroughputLimit.GPUS,
        True,
    )


def test_fan_out_counts():
    best = balance([load(0, 1.0), load(1, 0.1, tasks=30)], NONE, 8)
    assert best.counts == (2, 6)


def test_gpu_workers_draw_on_the_cpu_budget():
    assert balance([load(0, 1.0, gpus=0.1, cpus=2)], gpus(1), 6).counts == (3,)


def test_a_stage_that_is_not_measured_keeps_its_workers():
    best = balance([load(0, None, workers=3), load(1, 1.0), load(2, 1.0, tasks=None, workers=2)], NONE, 8)
    assert best.counts == (3, 3, 2)
    assert balance([load(0, None)], NONE, 8).limit is ThroughputLimit.NOT_MEASURED


def test_it_gives_workers_up_where_another_stage_would_have_none():
    assert balance([load(0, None, workers=2, gpus=1), load(1, 1.0, gpus=1)], gpus(2), 8).counts == (1, 1)


def test_a_fixed_count_is_kept_and_limits():
    best = balance([load(0, 1.0, num_workers=2), load(1, 3.0)], NONE, 64)
    assert (best.counts, best.limit) == ((2, 6), ThroughputLimit.FIXED_COUNT)


def test_no_worker_without_work():
    best = balance([load(0, 1.0, max_workers=2), load(1, 1.0)], NONE, 64)
    assert (best.counts, best.limit) == ((2, 2), ThroughputLimit.NO_MORE_WORK)


def test_the_smallest_counts_may_take_more_than_the_cpus():
    assert balance([load(i, 1.0) for i in range(5)], NONE, 2).counts == (1,) * 5


def test_a_stage_that_gets_nothing_needs_one_worker():
    assert balance([load(0, 1.0), load(1, 1.0, tasks=0.0)], NONE, 4).counts == (3, 1)


def test_stages_that_do_not_fit_together_are_a_bug_of_the_caller():
    with pytest.raises(InternalError, match="does not fit"):
        balance([load(0, gpus=1), load(1, gpus=1)], gpus(1), 4)


def test_an_order_that_the_largest_first_misses():
    """Shares 0.5 0.3 0.2 | 0.4 0.4 0.2 fill two GPUs; the largest first would put 0.5 beside 0.4."""
    asks = [(0.5, 1), (0.3, 1), (0.2, 2), (0.4, 2)]
    requests = [request_of(i, demand(f"s{i}", gpus=share)) for i, (share, _) in enumerate(asks)]
    packing = Bins(gpus(2), requests).pack([(r, n) for r, (_, n) in zip(requests, asks, strict=True)])
    assert packing.slots is not None


def test_mig_slices_are_not_joined_to_leave_a_gpu_for_others():
    ledger = Ledger.open([*(device(i, 80) for i in range(2)), *(device(i, 10, is_mig=True) for i in (2, 3))])
    asks = [{"gpus": 2}, {"gpus": 1}, {"gpu_memory_gb": 40}]
    requests = [request_of(i, demand(f"s{i}", **ask)) for i, ask in enumerate(asks)]
    bins = Bins(ledger, requests)
    assert bins.pack([(requests[0], 1), (requests[1], 2)]).slots == {0: [(0, 1)], 1: [(2,), (3,)]}
    assert bins.pack([(requests[0], 1), (requests[1], 1), (requests[2], 1)]).slots is None


shares = st.sampled_from([{"gpus": g} for g in (0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1, 2)])
memories = st.sampled_from([{"gpu_memory_gb": m} for m in (6, 9.5, 16, 24, 30)])
asks = st.one_of(shares, memories)
times = st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0, 1.9, 3.0])
modes = st.sampled_from([None, None, ComputeMode.EXCLUSIVE_PROCESS, ComputeMode.PROHIBITED])


@st.composite
def ledgers(draw, max_devices=3):
    devices = []
    for i in range(draw(st.integers(1, max_devices))):
        total = draw(st.sampled_from([None, 16, 24, 48]))
        free = None if total is None else int(total * GIB * draw(st.sampled_from([0.6, 1.0])))
        mig = draw(st.sampled_from([False, False, True]))
        devices.append(device(i, total, memory_free_bytes=free, compute_mode=draw(modes), is_mig=mig))
    return Ledger.open(devices, draw(st.sampled_from([0, 0, 300])))


def fits(counts, requests, ledger) -> bool:
    """Try every slot for every worker, by the ledger's own rules."""
    todo = [r for r, n in zip(requests, counts, strict=True) for _ in range(n) if r.uses_gpu]
    todo.sort(key=lambda r: -r.count)
    failed = set()

    def put(k: int, ledger: Ledger) -> bool:
        if k == len(todo):
            return True
        state = (k, ledger.slots)
        if state in failed:
            return False
        request = todo[k]
        free = [
            i for i, s in enumerate(ledger.slots) if s.fits(request) and not (request.count > 1 and s.device.is_mig)
        ]
        for slots in itertools.combinations(free, max(1, request.count)):
            if put(k + 1, ledger.grant(slots, request)):
                return True
        failed.add(state)
        return False

    return put(0, ledger)


def cpus(counts, stages) -> float:
    return math.fsum(n * max(0.25, s.request.demand.cpus) for n, s in zip(counts, stages, strict=True))


@st.composite
def problems(draw, max_stages=3, max_workers=4):
    count = draw(st.integers(1, max_stages))
    fixed = st.sampled_from([None, None, None, 1, 2])
    stages = [
        load(
            i,
            draw(times | st.none() if i else times),
            workers=draw(st.integers(1, 2)),
            tasks=draw(st.sampled_from([1.0, 0.5, 3.0, 0.0])),
            max_workers=max_workers,
            cpus=draw(st.sampled_from([0.1, 0.5, 1, 2])),
            num_workers=draw(fixed),
            **draw(asks),
        )
        for i in range(count)
    ]
    return stages, draw(ledgers()), draw(st.sampled_from([1.0, 2.5, 4.0, 7.0, 12.0]))


def attempt(stages, ledger, usable):
    try:
        return balance(stages, ledger, usable)
    except InternalError:
        bare = [s.fixed_count or 1 for s in stages]
        assert not fits(bare, [s.request for s in stages], ledger)
        return None


@settings(max_examples=150)
@given(problems())
def test_no_other_counts_are_better_and_no_fewer_are_as_good(problem):
    stages, ledger, usable = problem
    best = attempt(stages, ledger, usable)
    if best is None:
        return
    requests = [s.request for s in stages]
    assert best.proven
    assert fits(best.counts, requests, ledger)
    bare = [s.fixed_count or 1 for s in stages]
    held = [s.fixed_count or (s.workers if s.work_s is None else 1) for s in stages]
    min_counts = held if fits(held, requests, ledger) else bare
    budget = max(usable, cpus(min_counts, stages)) + 1e-6
    assert cpus(best.counts, stages) <= budget
    ranges = [
        [low] if s.fixed_count or s.work_s is None else range(low, max(low, s.max_workers) + 1)
        for s, low in zip(stages, min_counts, strict=True)
    ]
    assert all(n in choice for n, choice in zip(best.counts, ranges, strict=True))
    for counts in itertools.product(*ranges):
        rate = slowest_of(stages, counts)[1] or 0.0
        better = rate > (best.throughput or 0.0)
        cheaper = rate == (best.throughput or 0.0) and cpus(counts, stages) < cpus(best.counts, stages) - 1e-6
        if (better or cheaper) and cpus(counts, stages) <= budget:
            assert not fits(counts, requests, ledger), (counts, best)


@st.composite
def filled(draw):
    """Devices, requests, and counts that are known to fit since they were placed one by one."""
    ledger = draw(ledgers(max_devices=4))
    requests = [
        request_of(i, demand(f"s{i}", **ask)) for i, ask in enumerate(draw(st.lists(asks, min_size=1, max_size=4)))
    ]
    requests = [r for r in requests if r.uses_gpu]
    pairs = st.lists(st.integers(0, len(ledger.slots) - 1), min_size=2, max_size=2, unique=True)
    counts, left = [0] * len(requests), ledger
    puts = st.tuples(st.integers(0, 3), pairs if len(ledger.slots) > 1 else st.just([0]))
    for kind, pair in draw(st.lists(puts, min_size=8, max_size=25)):
        if kind >= len(requests):
            continue
        slots = pair[: max(1, requests[kind].count)]
        joins_mig = len(slots) > 1 and any(left.slots[i].device.is_mig for i in slots)
        if (
            len(slots) == max(1, requests[kind].count)
            and not joins_mig
            and all(left.slots[i].fits(requests[kind]) for i in slots)
        ):
            left = left.grant(slots, requests[kind])
            counts[kind] += 1
    return ledger, requests, counts


@settings(max_examples=250, deadline=None)
@given(filled(), st.integers(0, 3))
def test_packing_finds_what_fits_and_nothing_else(problem, one_more):
    ledger, requests, counts = problem
    bins = Bins(ledger, requests)
    packed = bins.pack(list(zip(requests, counts, strict=True))).slots
    assert packed is not None
    for request, n in zip(requests, counts, strict=True):
        assert len(packed[request.stage_index]) == n
        for slots in packed[request.stage_index]:
            assert len(slots) == 1 or not any(ledger.slots[i].device.is_mig for i in slots)
            ledger = ledger.grant(slots, request)
    if one_more < len(requests):
        counts[one_more] += 1
        packing = bins.pack(list(zip(requests, counts, strict=True)))
        assert packing.proven
        assert (packing.slots is not None) == fits(counts, requests, problem[0])


@st.composite
def large_problems(draw):
    count = draw(st.integers(1, 8))
    stages = [
        load(
            i,
            draw(times),
            tasks=draw(st.sampled_from([1.0, 4.0])),
            cpus=draw(st.sampled_from([0.5, 1, 4])),
            **draw(asks),
        )
        for i in range(count)
    ]
    sizes = draw(st.lists(st.sampled_from([24, 48, 80]), min_size=8, max_size=16))
    return stages, Ledger.open([device(i, size) for i, size in enumerate(sizes)]), draw(st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(large_problems(), st.integers(1, 30))
def test_more_cpus_never_lower_the_throughput_and_the_answer_is_always_the_same(problem, more):
    stages, ledger, usable = problem
    best = attempt(stages, ledger, usable)
    if best is None:
        return
    assert balance(stages, ledger, usable) == best
    assert balance(stages, ledger, usable + more).throughput >= best.throughput
    requests = [s.request for s in stages]
    packed = Bins(ledger, requests).pack(list(zip(requests, best.counts, strict=True))).slots
    assert packed is not None
    for request in requests:
        for slots in packed[request.stage_index]:
            ledger = ledger.grant(slots, request)  # raises where it does not fit
