"""What must hold for every pipeline on every node."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.errors import ResourcesError
from gpuexec.hardware.model import ComputeMode, Link, LinkKind
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.placement import place
from gpuexec.planning.request import request_of
from tests.unit.planning.nodes import GIB, demand, device, node, plan, workers

asks = st.one_of(
    st.fixed_dictionaries({"gpus": st.sampled_from([0, 0.001, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1, 2, 3])}),
    st.fixed_dictionaries({"gpu_memory_gb": st.sampled_from([0.001, 1, 7.5, 11.9, 24, 80])}),
)
demands = st.lists(
    st.builds(
        lambda ask, cpus, count: {**ask, "cpus": cpus, "num_workers": count},
        asks,
        st.sampled_from([0, 0.25, 1, 2.5, 16]),
        st.none() | st.integers(1, 4),
    ),
    min_size=1,
    max_size=5,
)
modes = st.sampled_from([None, ComputeMode.DEFAULT, ComputeMode.EXCLUSIVE_PROCESS, ComputeMode.PROHIBITED])


@st.composite
def machines(draw):
    count = draw(st.integers(0, 5))
    devices = []
    for i in range(count):
        total = draw(st.sampled_from([None, 8, 24, 80]))
        free = None if total is None else int(total * GIB * draw(st.sampled_from([0.3, 0.95, 1.0])))
        mig = draw(st.booleans())
        devices.append(device(i, total, memory_free_bytes=free, compute_mode=draw(modes), is_mig=mig))
    kinds = st.sampled_from(list(LinkKind))
    links = tuple(Link(a, b, draw(kinds)) for a in range(count) for b in range(a + 1, count))
    return devices, node(count, links)


def attempt(wanted, machine, **options):
    devices, on = machine
    try:
        return plan([demand(f"s{i}", **w) for i, w in enumerate(wanted)], devices, on=on, **options)
    except ResourcesError:
        return None


@settings(max_examples=300)
@given(demands, machines(), st.sampled_from([0.0, 0.5, 1.0]))
def test_nothing_is_overcommitted_and_nobody_forgotten(wanted, machine, reserved):
    made = attempt(wanted, machine, reserved_gpus=reserved, busy_memory_fraction=1.0)
    if made is None:
        return
    devices, _ = machine
    by_uuid = {d.uuid: d for d in devices}
    assert [s.stage_index for phase in made.phases for s in phase.stages] == list(range(len(wanted)))
    for phase in made.phases:
        shares: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        holders: Counter[str] = Counter()
        for stage in phase.stages:
            ask = wanted[stage.stage_index]
            assert len(stage.workers) >= 1
            assert ask["num_workers"] in (None, len(stage.workers))
            for worker in stage.workers:
                given_gpus = worker.allocation.gpus
                uuids = [g.uuid for g in given_gpus]
                assert len(set(uuids)) == len(uuids)
                assert worker.allocation.cuda_visible_devices == ",".join(uuids)
                asks_gpu = bool(ask.get("gpus") or ask.get("gpu_memory_gb"))
                assert len(uuids) == (max(1, int(ask.get("gpus", 0))) if asks_gpu else 0)
                assert len(uuids) <= 1 or not any(by_uuid[u].is_mig for u in uuids)
                for share in given_gpus:
                    holders[share.uuid] += 1
                    if ask.get("gpu_memory_gb"):
                        memory[share.uuid] += share.memory_bytes
                        shares[share.uuid] += Fraction(share.memory_bytes, by_uuid[share.uuid].memory_total_bytes)
                    else:
                        shares[share.uuid] += Fraction(round(share.fraction * 1000), 1000)
        assert all(total <= 1 for total in shares.values()), shares
        assert sum(shares.values()) <= len(devices) - Fraction(reserved) or not shares
        for uuid, count in holders.items():
            assert memory[uuid] <= (by_uuid[uuid].memory_free_bytes or 0) or not memory[uuid]
            assert by_uuid[uuid].compute_mode is not ComputeMode.PROHIBITED
            assert count == 1 or by_uuid[uuid].compute_mode is not ComputeMode.EXCLUSIVE_PROCESS


@given(demands, machines())
def test_the_same_input_gives_the_same_plan(wanted, machine):
    assert attempt(wanted, machine) == attempt(wanted, machine)


@given(demands, machines())
def test_no_pipeline_that_fits_stage_by_stage_is_refused(wanted, machine):
    alone = [attempt([w], machine) for w in wanted]
    assert (attempt(wanted, machine) is not None) == all(made is not None for made in alone)


@given(asks.filter(lambda ask: ask not in ({"gpus": 0.001}, {"gpu_memory_gb": 0.001})), machines())
def test_growing_stops_only_when_nothing_more_fits(ask, machine):
    made = attempt([{**ask, "cpus": 0}], machine, busy_memory_fraction=1.0)
    if made is None or not workers(made, 0)[0].allocation.gpus:
        return
    devices, on = machine
    if len(workers(made, 0)) * 0.25 + 0.25 > on.host.usable_cpus:
        return
    usable = [d for d in devices if d.compute_mode is not ComputeMode.PROHIBITED]
    request = request_of(0, demand(cpus=0, **ask))
    ledger = Ledger.open(usable)
    slot_of = {d.uuid: i for i, d in enumerate(usable)}
    for worker in workers(made, 0):
        ledger = ledger.grant([slot_of[g.uuid] for g in worker.allocation.gpus], request)
    assert place(request, ledger, on) is None
