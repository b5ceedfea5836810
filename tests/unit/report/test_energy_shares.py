"""Shares of energy: those of workers add up to their stage's, those of stages and the idle joules to the GPU's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuexec.events import NodeSampled, SeriesStopped
from gpuexec.hardware.telemetry import GpuSample
from gpuexec.report import energy_shares
from gpuexec.report.energy import EnergyKind
from gpuexec.report.energy_shares import BusyTime, GpuMeter, RunEnergy, divided
from gpuexec.report.node_series import NodeSeries

UUID = "GPU-0"
START = 100.0


def metered(*millijoules: int | None, every_s: float = 1.0, devices: tuple[str, ...] = (UUID,)) -> GpuMeter:
    """Return the meter of a GPU whose counter was read from the start on."""
    meter = GpuMeter(0, UUID, devices, START, 2 * every_s)
    for number, reading in enumerate(millijoules):
        meter.add(START + number * every_s, reading, "not supported" if reading is None else None)
    return meter


def shares_of(meter: GpuMeter, *busy: tuple[int, str, float, float]) -> RunEnergy:
    """Divide a GPU's joules among workers: stage, worker, begin and end in seconds after the start."""
    times = BusyTime(START)
    for stage, worker, began, ended in busy:
        times.account(stage, worker, meter.devices[:1], START + began, START + ended, ended - began)
    return divided([meter], times, "")


def share(joules: float | None, reason: str | None = None) -> dict[str, Any]:
    return {"joules": None if joules is None else pytest.approx(joules), "kind": "attributed", "reason": reason}


def test_energy_is_measured_idle_power_estimated_and_shares_attributed():
    # 70 W for 10 s, then 700 W for 10 s, of which one worker was busy 10 s and another one 6 s.
    meter = metered(*(70_000 * min(i, 10) + 700_000 * max(0, i - 10) for i in range(21)))
    found = shares_of(meter, (3, "embed-0", 10.0, 20.0), (3, "embed-1", 14.0, 20.0))
    assert found.gpus[UUID] == {
        "joules": 7700.0,
        "seconds": 20.0,
        "kind": EnergyKind.MEASURED,
        "reason": None,
        "idle_watts": pytest.approx(70.0),
        "idle_reason": None,
        "idle_joules": pytest.approx(1400.0),
    }
    assert found.stages == {3: share(6300.0)}
    assert found.workers == {"embed-0": share(2520.0 + 1890.0), "embed-1": share(1890.0)}


def test_work_in_bursts_shorter_than_a_sample_gets_all_that_is_above_idle_power():
    # Every half second, a quarter at 700 W and a quarter at 100 W; at the end, rest.
    counter = [200_000 * min(i, 40) + 50_000 * max(0, i - 40) for i in range(61)]
    bursts = [(0, "w-0", i / 2, i / 2 + 0.25) for i in range(40)]
    found = shares_of(metered(*counter, every_s=0.5), *bursts).stages[0]
    assert (found["joules"], found["reason"]) == (pytest.approx(20 * 300.0, rel=0.01), None)


def test_the_share_of_a_short_measurement_says_so():
    found = shares_of(metered(0, 400_000, every_s=4.0), (0, "w-0", 0.0, 4.0))
    for each in (found.stages[0], found.workers["w-0"]):
        assert each["joules"] == pytest.approx(400.0)
        assert "GPU 0: its counter was read for 4.0 s only" in each["reason"]
        assert "the shares include idle power, which is unknown" in each["reason"]


def test_whoever_was_busy_on_a_gpu_that_was_not_sampled_has_no_share_and_the_reason():
    series = NodeSeries(0.0)
    series.busy.account(0, "w-0", [UUID], 0.0, 1.0, 1.0)
    why = f"{UUID}: no sample was taken"
    assert series.energy() == RunEnergy({}, {0: share(None, why)}, {"w-0": share(None, why)})
    series.stop(SeriesStopped(2.0, "nvml", "a call hangs"))
    assert series.energy().workers["w-0"]["reason"] == f"{UUID}: stopped 2.0 s after the start: a call hangs"


def test_energy_that_cannot_be_read_has_its_reason():
    found = shares_of(metered(None, None, None), (0, "w-0", 0.0, 1.0))
    energy = found.gpus[UUID]
    assert (energy["joules"], energy["idle_joules"], energy["kind"]) == (None, None, None)
    assert energy["reason"] == "not supported"
    assert energy["idle_watts"] is None
    assert energy["idle_reason"].startswith("there was less than a second")
    assert found.stages[0] == found.workers["w-0"] == share(None, "GPU 0: not supported")


def test_what_is_busy_on_slices_of_a_gpu_shares_the_joules_of_all_of_it():
    meter = metered(0, 1_000_000, every_s=12.0, devices=("MIG-a", "MIG-b"))
    busy = BusyTime(START)
    busy.account(0, "a-0", ["MIG-a"], START, START + 9.0, 9.0)
    busy.account(1, "b-0", ["MIG-b"], START, START + 3.0, 3.0)
    busy.account(2, "c-0", ["GPU-9"], START, START + 3.0, 3.0)
    found = divided([meter], busy, "")
    assert [each["joules"] for each in found.stages.values()] == [pytest.approx(750.0), pytest.approx(250.0), None]


def test_a_share_of_several_gpus_says_which_of_them_it_lacks():
    busy = BusyTime(START)
    busy.account(0, "a-0", [UUID, "GPU-9"], START, START + 12.0, 12.0)
    found = divided([metered(0, 900_000, every_s=12.0)], busy, "no sample was taken").workers["a-0"]
    assert found["joules"] == pytest.approx(900.0)
    assert "GPU-9: no sample was taken" in found["reason"]


def test_of_many_workers_the_first_have_shares_and_the_stage_has_all(monkeypatch):
    monkeypatch.setattr(energy_shares, "MOST_WORKERS", 2)
    found = shares_of(metered(0, 900_000, every_s=12.0), *((0, f"w-{n}", 0.0, 12.0) for n in (0, 1, 2, 0)))
    assert found.workers.keys() == {"w-0", "w-1"}
    assert found.stages[0]["joules"] == pytest.approx(900.0)
    assert found.workers["w-0"]["joules"] == pytest.approx(450.0)


UUIDS = ("GPU-0", "GPU-1")
READINGS = st.lists(st.tuples(st.sampled_from(UUIDS), st.integers(0, 700_000), st.booleans()), max_size=30)
# Devices, then pauses and busy times in parts of the run, and which part of the latter it was really busy.
WORKERS = st.lists(
    st.tuples(
        st.sampled_from([UUIDS[:1], UUIDS[1:], UUIDS]),
        st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 1)), min_size=1, max_size=3),
    ),
    max_size=5,
)


def run_of(length_s: float, readings, workers) -> NodeSeries:
    """Return a run of two GPUs whose counters are read in turn, and of workers of three stages."""
    series, counters = NodeSeries(START), dict.fromkeys(UUIDS, 10**9)
    for number, (uuid, millijoules, is_missing) in enumerate(readings):
        counters[uuid] += millijoules
        at = START + number * length_s / 30
        reading, unknown = (None, {"energy_mj": "lost"}) if is_missing else (counters[uuid], {})
        sample = GpuSample(at=at, index=0, uuid=uuid, unknown=unknown, devices=(uuid,), energy_mj=reading)
        series.add(NodeSampled(at, (sample,), (), length_s / 30))
    for worker, (devices, works) in enumerate(workers):
        ended = START
        for pause, length, busy in works:
            began = ended + pause * length_s
            ended = began + length * length_s
            series.busy.account(worker % 3, f"{worker % 3}-{worker}", devices, began, ended, (ended - began) * busy)
    return series


@example(3.0, [("GPU-0", 0, False), ("GPU-0", 1, False)], [(("GPU-0",), [(0.0, 0.25, 2.2e-313)])])
@given(st.sampled_from([3.0, 40.0, 1800.0]), READINGS, WORKERS)
def test_workers_add_up_to_their_stage_and_stages_with_idle_joules_to_the_gpus(length_s, readings, workers):
    found = run_of(length_s, readings, workers).energy()
    for stage, of_stage in found.stages.items():
        of_workers = [one["joules"] for name, one in found.workers.items() if name.startswith(f"{stage}-")]
        assert sum(joules or 0.0 for joules in of_workers) == pytest.approx(of_stage["joules"] or 0.0, abs=1e-6)
        assert (of_stage["joules"] is None) == all(joules is None for joules in of_workers)
    known = [gpu for gpu in found.gpus.values() if gpu["joules"] is not None]
    idle = sum(gpu["idle_joules"] for gpu in known)
    stages = sum(stage["joules"] or 0.0 for stage in found.stages.values())
    assert stages + idle == pytest.approx(sum(gpu["joules"] for gpu in known), abs=1e-6)
    assert all(gpu["joules"] is not None or gpu["reason"] for gpu in found.gpus.values())
    assert all(one["joules"] is not None or one["reason"] for one in [*found.stages.values(), *found.workers.values()])
    assert min([idle, *(one["joules"] or 0.0 for one in found.workers.values())]) >= 0
