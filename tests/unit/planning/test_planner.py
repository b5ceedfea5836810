"""The planner by example: shares, memory, topology, reserves, phases, refusals."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from gpuexec.errors import ConfigurationError, GpusBusy, ResourcesError
from gpuexec.hardware.model import ComputeMode, GpuProcess, Holder, Lease, Link, LinkKind
from gpuexec.policies import BusyGpuPolicy
from tests.unit.planning.nodes import GIB, demand, device, node, nvlink, plan, workers


def gpus_of(made, stage_index=0):
    return [tuple(share.index for share in w.allocation.gpus) for w in workers(made, stage_index)]


def test_a_cpu_stage_may_grow_to_all_cpus_and_sees_no_gpu():
    made = plan([demand(cpus=2)], [device(0)])
    assert len(workers(made, 0)) == 8
    allocation = workers(made, 0)[0].allocation
    assert (allocation.gpus, allocation.cuda_visible_devices, allocation.cpus) == ((), "", 2)


def test_cpu_stages_may_be_shown_the_gpus():
    made = plan([demand()], [device(0), device(1)], cpu_stages_see_gpus=True)
    assert workers(made, 0)[0].allocation.cuda_visible_devices == "GPU-0,GPU-1"


def test_a_quota_counts_like_cpus():
    assert len(workers(plan([demand()], on=node(quota=2.0)), 0)) == 2


def test_thirds_of_a_gpu_are_exact():
    made = plan([demand(gpus=1 / 3, cpus=0.1)], [device(0)])
    assert len(workers(made, 0)) == 3
    assert sum(w.allocation.gpus[0].fraction for w in workers(made, 0)) <= 1


def test_ten_tenths_fit_and_eleven_do_not():
    assert len(workers(plan([demand(gpus=0.1, num_workers=10)], [device(0)]), 0)) == 10
    with pytest.raises(ResourcesError, match="10 worker"):
        plan([demand(gpus=0.1, num_workers=11)], [device(0)])


def test_memory_is_placed_against_the_actual_gpu():
    made = plan([demand(gpu_memory_gb=11.9, cpus=0)], [device(0, 80), device(1, 24), device(2, 8)])
    counts = {i: gpus_of(made).count((i,)) for i in range(3)}
    assert counts == {0: 6, 1: 2, 2: 0}, "Curator's tenths would put ten on 80 GB"
    assert workers(made, 0)[0].allocation.gpus[0].memory_bytes >= 11.9 * GIB


def test_memory_that_is_not_free_is_not_promised():
    half_used = device(0, 80, memory_free_bytes=40 * GIB)
    made = plan([demand(gpu_memory_gb=15, cpus=0)], [half_used], busy_memory_fraction=1.0)
    assert len(workers(made, 0)) == 2


def test_a_small_request_on_a_huge_gpu_is_not_nothing():
    made = plan([demand(gpu_memory_gb=10, num_workers=1)], [device(0, 288)])
    share = workers(made, 0)[0].allocation.gpus[0]
    assert 0.03 < share.fraction < 0.04


def test_a_multi_gpu_worker_gets_the_closest():
    links = tuple(
        nvlink(a, b) if (a, b) in {(0, 2), (1, 3)} else Link(a, b, LinkKind.HOST_BRIDGE)
        for a, b in itertools.combinations(range(4), 2)
    )
    made = plan([demand(gpus=2, cpus=1)], [device(i) for i in range(4)], on=node(4, links))
    assert sorted(gpus_of(made)) == [(0, 2), (1, 3)]
    assert workers(made, 0)[0].allocation.cuda_visible_devices in {"GPU-0,GPU-2", "GPU-1,GPU-3"}


@pytest.mark.parametrize(("near", "far"), list(itertools.pairwise(LinkKind)))
def test_each_kind_of_link_is_preferred_to_the_next(near, far):
    links = (Link(0, 1, far), Link(0, 2, far), Link(1, 2, near))
    made = plan([demand(gpus=2, num_workers=1)], [device(i) for i in range(3)], on=node(3, links))
    assert gpus_of(made) == [(1, 2)]


def test_on_one_switch_a_numa_node_is_not_crossed_without_need():
    links = tuple(nvlink(a, b, 18) for a, b in itertools.combinations(range(8), 2))
    devices = [device(i, numa_node=i // 4) for i in range(8)]
    made = plan([demand("pairs", gpus=2, cpus=1), demand("one", gpus=1, num_workers=1)], devices, on=node(8, links))
    assert len(gpus_of(made)) == 3
    assert all(a // 4 == b // 4 for a, b in gpus_of(made))


def test_more_nvlinks_are_closer():
    links = (nvlink(0, 1, 1), nvlink(0, 2, 2), nvlink(1, 2, 4))
    made = plan([demand(gpus=2, num_workers=1)], [device(i) for i in range(3)], on=node(3, links))
    assert gpus_of(made) == [(1, 2)]


def test_many_gpus_are_chosen_without_trying_every_set():
    links = tuple(nvlink(a, b) for half in (range(8), range(8, 16)) for a, b in itertools.combinations(half, 2))
    made = plan([demand(gpus=8, num_workers=2, cpus=1)], [device(i) for i in range(16)], on=node(16, links))
    assert sorted(gpus_of(made)) == [tuple(range(8)), tuple(range(8, 16))]


def test_mig_slices_are_devices_but_never_joined():
    slices = [device(0, 10, uuid=f"MIG-{i}", is_mig=True) for i in range(3)]
    assert len(workers(plan([demand(gpus=1, cpus=1)], slices), 0)) == 3
    with pytest.raises(ResourcesError, match="MIG slices cannot be joined"):
        plan([demand(gpus=2)], slices)


def test_the_worker_runs_near_its_gpu():
    made = plan([demand(gpus=1, num_workers=1)], [device(0, cpus=(4, 5, 99))])
    assert workers(made, 0)[0].cpu_affinity == (4, 5)
    made = plan([demand(gpus=1, num_workers=1)], [device(0, cpus=(99,))])
    assert workers(made, 0)[0].cpu_affinity == (), "none of the near CPUs may be used"


def test_small_shares_leave_whole_gpus_free():
    made = plan([demand("a", gpus=0.5, num_workers=2), demand("b", gpus=1, num_workers=1)], [device(0), device(1)])
    assert len(set(gpus_of(made, 0))) == 1
    assert set(gpus_of(made, 1)).isdisjoint(gpus_of(made, 0))


def test_gpu_stages_share_fairly():
    made = plan([demand("a", gpus=1), demand("b", gpus=1)], [device(i) for i in range(8)])
    assert (len(workers(made, 0)), len(workers(made, 1))) == (4, 4)


def test_cpus_limit_gpu_workers():
    made = plan([demand(gpus=0.1, cpus=4)], [device(0)])
    assert len(workers(made, 0)) == 4
    assert "allow no more" in made.phases[0].stages[0].reason


def test_stages_that_do_not_fit_at_once_run_in_phases():
    made = plan([demand("a", gpus=1), demand("b"), demand("c", gpus=1)], [device(0)])
    assert [[s.name for s in phase.stages] for phase in made.phases] == [["a", "b"], ["c"]]
    assert "2 phases" in made.notes[0]


def test_a_thousandth_of_a_gpu_does_not_make_a_thousand_processes():
    made = plan([demand(gpus=0.001, cpus=0)], [device(0)])
    assert len(workers(made, 0)) == 64
    assert "16 usable CPUs at 0.25 each allow no more" in made.phases[0].stages[0].reason


def test_curators_three_light_stages_run_on_two_cpus():
    made = plan([demand("a", cpus=0.25), demand("b", cpus=0.5), demand("c", cpus=0.5)], on=node(cpus=2))
    assert len(made.phases) == 1


def test_reserves():
    assert len(workers(plan([demand()], reserved_cpus=12), 0)) == 4
    made = plan([demand(gpus=0.5, cpus=1)], [device(0), device(1)], reserved_gpus=1.5)
    assert gpus_of(made) == [(0,)], "the reserve comes from the last devices"
    with pytest.raises(ResourcesError, match="leaves none of the 16"):
        plan([demand()], reserved_cpus=16)


def test_stages_of_one_name_have_workers_of_different_names():
    made = plan([demand("a", num_workers=1), demand("a", num_workers=1)])
    assert [w.worker_id for i in (0, 1) for w in workers(made, i)] == ["a-0", "a#2-0"]


def test_more_workers_than_cpus_is_allowed_and_said():
    made = plan([demand(num_workers=20)])
    assert len(workers(made, 0)) == 20
    assert "will share them" in made.notes[0]


def test_exclusive_mode_takes_one_worker_a_gpu():
    made = plan([demand(gpus=0.25, cpus=0)], [device(0, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)])
    assert len(workers(made, 0)) == 1


def test_prohibited_mode_takes_none():
    with pytest.raises(ResourcesError, match="prohibited"):
        plan([demand(gpus=1)], [device(0, compute_mode=ComputeMode.PROHIBITED)])


SOMEBODY = GpuProcess(4711, 70 * GIB, "compute", "python")
HELD = device(0, 80, memory_free_bytes=10 * GIB, processes=(SOMEBODY,))


def test_a_held_gpu_is_skipped_with_a_note():
    made = plan([demand(gpus=1, cpus=1)], [HELD, device(1)])
    assert gpus_of(made) == [(1,)]
    assert "held by other processes" in made.notes[0]


def test_a_held_gpu_is_an_error_or_waited_for():
    with pytest.raises(ResourcesError, match=r"busy_gpus='error'.*10\.00 GiB free"):
        plan([demand(gpus=1)], [HELD, device(1)], busy_gpus=BusyGpuPolicy.ERROR)
    with pytest.raises(GpusBusy):
        plan([demand(gpus=1)], [HELD, device(1)], busy_gpus=BusyGpuPolicy.WAIT)
    plan([demand()], [HELD], busy_gpus=BusyGpuPolicy.ERROR)  # no stage asks for a GPU


def held_by(*processes: GpuProcess, memory_gib: int = 8, reserved_mib: int | None = 512, **fields):
    used = sum(p.used_bytes or 0 for p in processes) + (reserved_mib or 0) * 2**20
    free = fields.pop("memory_free_bytes", memory_gib * GIB - used)
    reserved = None if reserved_mib is None else reserved_mib * 2**20
    return device(0, memory_gib, memory_free_bytes=free, memory_reserved_bytes=reserved, processes=processes, **fields)


DESKTOP = (GpuProcess(900, GIB, "graphics", "Xorg"), GpuProcess(901, GIB, "graphics", "gnome-shell"))


def test_a_desktop_lowers_what_is_free_and_does_not_make_a_gpu_busy():
    made = plan([demand(gpus=1, cpus=1)], [held_by(*DESKTOP)], busy_gpus=BusyGpuPolicy.ERROR)
    assert workers(made, 0)[0].allocation.gpus[0].memory_bytes == 6 * GIB
    assert "graphics processes: Xorg (pid 900), gnome-shell (pid 901), 2.00 GiB" in made.notes[0]
    assert len(workers(plan([demand(gpu_memory_gb=2.5)], [held_by(*DESKTOP)]), 0)) == 2
    with pytest.raises(ResourcesError, match=r"(?s)most that is free on one is 5\.50.*in use by graphics.*Xorg"):
        plan([demand(gpu_memory_gb=6)], [held_by(*DESKTOP)])


def test_the_drivers_own_reserve_does_not_make_a_gpu_busy():
    assert gpus_of(plan([demand(gpus=1)], [held_by(memory_gib=4, reserved_mib=900)])) == [(0,)]
    old_driver = held_by(memory_gib=4, reserved_mib=None, memory_free_bytes=3 * GIB + GIB // 4)
    assert gpus_of(plan([demand(gpus=1)], [old_driver])) == [(0,)]


def test_this_very_process_is_told_apart_and_named():
    own = GpuProcess(77, 2 * GIB, "compute", "python", is_this_process=True)
    made = plan([demand(gpus=1)], [held_by(own)])
    assert "this process: python (pid 77), 2.00 GiB" in made.notes[0]
    with pytest.raises(ResourcesError, match=r"held by this process: python \(pid 77\)"):
        plan([demand(gpus=1)], [held_by(own, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)])


def test_foreign_compute_memory_is_busy_beside_a_desktop_listed_or_not():
    with pytest.raises(ResourcesError, match=r"other compute processes: python \(pid 4\), 2.00 GiB"):
        plan([demand(gpus=1)], [held_by(*DESKTOP, GpuProcess(4, 2 * GIB, "compute", "python"))])
    with pytest.raises(ResourcesError, match=r"processes that NVML does not list, 2\.50 GiB"):
        plan([demand(gpus=1)], [held_by(*DESKTOP, memory_free_bytes=3 * GIB)])
    unsized = GpuProcess(4, None, "compute", "python")
    with pytest.raises(ResourcesError, match=r"other compute processes: python \(pid 4\), 2.50 GiB"):
        plan([demand(gpus=1)], [held_by(*DESKTOP, unsized, memory_free_bytes=3 * GIB)])


def test_a_process_that_computes_and_draws_is_counted_once():
    both = (GpuProcess(4, GIB // 2, "compute", "blender"), GpuProcess(4, GIB // 2, "graphics", "blender"))
    made = plan([demand(gpus=1)], [held_by(*both, memory_free_bytes=7 * GIB)])
    assert gpus_of(made) == [(0,)]


def test_mps_shares_a_gpu_in_exclusive_mode():
    server = GpuProcess(5, 30 * 2**20, "compute", "nvidia-cuda-mps")
    exclusive = held_by(server, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)
    made = plan([demand(gpus=0.25, cpus=0.1)], [exclusive])
    assert len(workers(made, 0)) == 4
    assert "MPS" in made.notes[0]
    alone = held_by(compute_mode=ComputeMode.EXCLUSIVE_PROCESS)
    assert len(workers(plan([demand(gpus=0.25, cpus=0.1)], [alone]), 0)) == 1
    with pytest.raises(ResourcesError, match="held by other compute processes: python"):
        plan([demand(gpus=0.25)], [held_by(server, SOMEBODY, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)])


def test_a_share_that_another_run_leased_is_not_given_out():
    half = device(0, 80, leases=(Lease(Holder(4711), 500, 0),))
    assert gpus_of(plan([demand(gpus=1)], [half, device(1)])) == [(1,)]
    made = plan([demand(gpus=0.25, cpus=0.1)], [half])
    assert len(workers(made, 0)) == 2
    assert "another gpuexec run (pid 4711) that holds 0.5 of it" in made.notes[0]
    made = plan([demand(gpu_memory_gb=15, cpus=0.1)], [half])
    assert len(workers(made, 0)) == 2, "40 of 80 GiB are left"


def test_memory_that_another_run_leased_and_uses_is_counted_once():
    using = GpuProcess(4712, 20 * GIB, "compute", "python", holds_lease=True)
    leased = device(0, 80, memory_free_bytes=60 * GIB, processes=(using,), leases=(Lease(Holder(4711), 0, 30 * GIB),))
    assert len(workers(plan([demand(gpu_memory_gb=25, cpus=0.1)], [leased]), 0)) == 2
    with pytest.raises(ResourcesError, match="shared with another gpuexec run"):
        plan([demand(gpu_memory_gb=51)], [leased])
    unseen = dataclasses.replace(leased, processes=())  # as in a container that hides them
    assert len(workers(plan([demand(gpu_memory_gb=25, cpus=0.1)], [unseen]), 0)) == 2


def test_a_gpu_that_another_run_leased_is_busy():
    leased = device(0, leases=(Lease(Holder(4711), 1000, 0),))
    made = plan([demand(gpus=1)], [leased, device(1)])
    assert gpus_of(made) == [(1,)]
    assert "pid 4711" in made.notes[0]
    with pytest.raises(ResourcesError, match="pid 4711"):
        plan([demand(gpus=0.1)], [leased])
    with pytest.raises(ResourcesError, match=r"busy_gpus='error'.*pid 4711"):
        plan([demand(gpus=1)], [leased, device(1)], busy_gpus=BusyGpuPolicy.ERROR)
    with pytest.raises(GpusBusy):
        plan([demand(gpus=1)], [leased, device(1)], busy_gpus=BusyGpuPolicy.WAIT)
    with pytest.raises(GpusBusy, match="pid 4711"):
        plan([demand(gpus=1)], [device(0, leases=(Lease(Holder(4711), 500, 0),))], busy_gpus=BusyGpuPolicy.WAIT)


def test_an_exclusive_gpu_with_a_process_is_held_whatever_its_memory():
    busy = device(0, compute_mode=ComputeMode.EXCLUSIVE_PROCESS, processes=(SOMEBODY,))
    with pytest.raises(ResourcesError):
        plan([demand(gpus=1)], [busy])


def test_unified_memory_is_never_called_busy():
    made = plan([demand(gpus=1, cpus=1)], [dataclasses.replace(HELD, unified_memory=True)])
    assert gpus_of(made) == [(0,)]


@pytest.mark.parametrize(
    ("wanted", "devices", "message"),
    [
        (demand("big", cpus=17), [], r"'big' asks for cpus=17 .*16 usable"),
        (demand("big", gpus=1), [], r"'big' asks for gpus=1, but there is no GPU for it: no driver"),
        (demand("big", gpus=4), [device(0), device(1)], "1 × 4 whole GPUs are needed, 2 are free"),
        (demand("big", gpu_memory_gb=81), [device(0)], r"81\.00 GiB on one device is needed.*80\.00"),
        (demand("big", gpu_memory_gb=30, num_workers=3), [device(0)], "3 workers of gpu_memory_gb=30 each"),
        (demand("big", gpus=1, num_workers=3), [device(0)], r"3 whole GPU\(s\) or MIG slice\(s\) are needed, 1 are"),
        (demand("big", gpu_memory_gb=1), [device(0, None)], "memory size unknown"),
    ],
)
def test_a_request_that_can_never_fit_is_refused_with_the_arithmetic(wanted, devices, message):
    with pytest.raises(ResourcesError, match=message):
        plan([wanted], devices)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus": 1.5}, "only whole numbers"),
        ({"gpus": 1, "gpu_memory_gb": 3}, "only one of them"),
        ({"gpus": -1}, "finite number >= 0"),
        ({"cpus": float("nan")}, "finite number >= 0"),
        ({"gpu_memory_gb": float("inf")}, "finite number >= 0"),
        ({"num_workers": 0}, "at least 1"),
    ],
)
def test_a_demand_without_meaning(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        plan([demand(**fields)], [device(0)])


def test_a_share_works_on_a_gpu_of_unknown_size():
    made = plan([demand(gpus=0.5, cpus=1)], [device(0, None)])
    assert [w.allocation.gpus[0].memory_bytes for w in workers(made, 0)] == [None, None]
