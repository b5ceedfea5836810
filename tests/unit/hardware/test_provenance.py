"""The state of GPUs before and after a run: read over the simulated driver, compared as plain values."""

from __future__ import annotations

import dataclasses
import os

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.hardware.model import GpuProcess
from gpuexec.hardware.provenance import GpuState, Provenance, contamination, read_provenance
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB

SW_THERMAL, HW_THERMAL = "269", "270"


def server(**fields):
    return nodes.node(nodes.gpu(0, sm_clock_mhz=1980, memory_clock_mhz=2619, power_limit_mw=700_000, **fields))


def state(*processes: GpuProcess, **fields) -> Provenance:
    return Provenance(gpus=(GpuState(3, "GPU-3", processes=processes, **fields),))


def process(pid: int, used_gib: float | None, name: str | None = None, kind: str = "compute") -> GpuProcess:
    return GpuProcess(pid, None if used_gib is None else int(used_gib * GIB), kind, name)


def test_everything_that_is_read(nvml_node):
    nvml_node(server(clocks_event_reasons=0x1 | 0x40 | 0x8000, throttled_ns={SW_THERMAL: 5, "74": 7}))
    simulator.hold_memory(0, 2 * GIB)
    provenance = read_provenance([nodes.uuid(0)])
    assert (provenance.driver_version, provenance.cuda_version) == ("580.95.05", "13.0")
    assert provenance.missing == {}
    (gpu,) = provenance.gpus
    assert (gpu.index, gpu.uuid) == (0, nodes.uuid(0))
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz, gpu.power_limit_mw) == (1980, 2619, 700_000)
    assert gpu.clock_reasons == ("idle", "HW thermal slowdown", "reason 0x8000")
    assert gpu.throttled_ns == {"SW thermal slowdown": 5, "power cap": 7}
    assert [(p.pid, p.used_bytes) for p in gpu.processes] == [(os.getpid(), 2 * GIB)]
    assert gpu.processes[0].name is None or not provenance.foreign_pids
    assert gpu.unknown == {}


def test_what_cannot_be_read_is_none_with_its_reason(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, unsupported=["processes"])))
    (gpu,) = read_provenance([nodes.uuid(0)]).gpus
    fields = ("sm_clock_mhz", "memory_clock_mhz", "power_limit_mw", "clock_reasons", "throttled_ns", "processes")
    assert [getattr(gpu, name) for name in fields] == [None] * 6
    assert set(gpu.unknown) == set(fields)
    assert gpu.unknown["throttled_ns"] == "not counted by this GPU or driver version"


def test_slices_of_one_gpu_are_one_gpu(nvml_node):
    nvml_node(nodes.mig())
    provenance = read_provenance([nodes.uuid(0, "MIG"), nodes.uuid(2, "MIG")])
    assert [gpu.uuid for gpu in provenance.gpus] == [nodes.uuid(0)]


def test_without_a_driver_every_device_has_the_reason(nvml_node):
    nvml_node({**nodes.small(), "init_error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
    provenance = read_provenance(["GPU-x"])
    assert provenance.gpus == ()
    assert "kernel module is not loaded" in provenance.missing["GPU-x"]
    assert contamination(provenance, provenance, ()) == []


def test_a_gpu_lost_during_the_run(nvml_node):
    node = nvml_node(nodes.unequal())
    uuids = [nodes.uuid(0), nodes.uuid(1)]
    before = read_provenance(uuids)
    node.change(lambda d: d["gpus"][1].update(lost=True, lost_late=True))
    (note,) = contamination(before, read_provenance(uuids), ())
    assert note.startswith("GPU 1 could not be read after the run: ")
    assert "GPU 1: the GPU is lost" in note


def test_a_quiet_run_over_the_driver(nvml_node):
    nvml_node(server(throttled_ns={SW_THERMAL: 5, "74": 7}, clocks_event_reasons=1))
    before = read_provenance([nodes.uuid(0)])
    assert contamination(before, read_provenance([nodes.uuid(0)]), ()) == []


def test_throttling_is_counted_by_the_driver(nvml_node):
    node = nvml_node(server(throttled_ns={HW_THERMAL: 1_000_000_000, "74": 0}))
    before = read_provenance([nodes.uuid(0)])
    node.change(lambda d: d["gpus"][0].update(throttled_ns={HW_THERMAL: 4_500_000_000, "74": 9_000_000_000}))
    after = read_provenance([nodes.uuid(0)])
    assert contamination(before, after, ()) == ["GPU 0 was throttled for 3.5 s of the run: HW thermal slowdown"], (
        "running at the power limit is what a busy GPU does"
    )


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (("idle",), ("HW thermal slowdown",), "GPU 3 was throttled when it ended: HW thermal slowdown"),
        (("HW slowdown",), ("HW slowdown",), "GPU 3 was throttled when the run began and when it ended: HW slowdown"),
        (("idle", "power cap", "sync boost"), None, None),
    ],
)
def test_throttling_at_two_moments_where_nothing_is_counted(before, after, note):
    found = contamination(state(clock_reasons=before), state(clock_reasons=after), ())
    assert found == ([note] if note else [])


def test_other_tenants():
    before = state(process(42, 12, "python"), process(50, 1), process(60, None, "Xorg", "graphics"))
    after = state(process(42, 3, "python"), process(50, 2), process(70, 0.5))
    assert contamination(before, after, own_pids={50}) == [
        "GPU 3: another process (pid 42, python) held 12.0 GiB during the run",
        "GPU 3: another process (pid 60, Xorg) held an unknown amount of memory during the run",
        "GPU 3: another process (pid 70) held 0.5 GiB when the run ended",
    ]


def test_foreign_pids_accuse_only_who_was_there_before():
    before = dataclasses.replace(state(process(42, 12)), foreign_pids=True)
    after = dataclasses.replace(state(process(42, 12), process(1234, 40)), foreign_pids=True)
    assert contamination(before, after, own_pids={42}) == [
        "GPU 3: a process that was there before the run (pid 42, in another pid namespace) held 12.0 GiB"
    ]


def test_a_changed_power_limit():
    notes = contamination(state(power_limit_mw=700_000), state(power_limit_mw=450_500), ())
    assert notes == ["GPU 3: its power limit was changed from 700 W to 450.5 W during the run"]
    assert contamination(state(power_limit_mw=700_000), state(), ()) == [], "unknown is not changed"


processes = st.lists(
    st.builds(GpuProcess, st.integers(1, 6), st.none() | st.integers(0, 80 * GIB), st.sampled_from(["compute"])),
    max_size=6,
)


@given(before=processes, after=processes, own=st.sets(st.integers(1, 6)), foreign=st.booleans())
def test_every_other_tenant_is_named_once_and_no_own_process(before, after, own, foreign):
    readings = [dataclasses.replace(state(*entries), foreign_pids=foreign) for entries in (before, after)]
    notes = contamination(*readings, own_pids=own)
    there = {p.pid for p in before} if foreign else {p.pid for p in (*before, *after)} - own
    assert len(notes) == len(there)
    assert all(any(f"pid {pid}" in note for note in notes) for pid in there)
