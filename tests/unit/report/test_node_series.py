"""Series of a run's samples: figures, sources, gaps with their reasons, and bounded size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuexec.events import NodeSampled, SeriesStopped
from gpuexec.hardware.process_readings import ENDED, ProcessSample
from gpuexec.hardware.telemetry import FIRST_READING, GpuSample
from gpuexec.report import node_series
from gpuexec.report.energy import EnergyKind
from gpuexec.report.node_series import NodeSeries
from gpuexec.report.timeline import BIN_S
from gpuexec.series import AmountSeries

UUID = "GPU-0"


def gpu(at: float, unknown: dict[str, str] | None = None, **readings: Any) -> GpuSample:
    sources = dict.fromkeys(readings, "the call")
    return GpuSample(at=at, index=0, uuid=UUID, unknown=unknown or {}, sources=sources, devices=(UUID,), **readings)


def process(worker_id: str = "w-0", pid: int = 7, rss: int | None = 100, cpu_s: float | None = 1.0) -> ProcessSample:
    unknown = {} if rss is not None else {"rss_bytes": "refused", "cpu_s": "refused"}
    return ProcessSample(worker_id, pid, rss, cpu_s, (), unknown)


def collected(samples: list[GpuSample], interval_s: float = 0.5) -> NodeSeries:
    series = NodeSeries(100.0)
    for sample in samples:
        series.add(NodeSampled(sample.at, (sample,), (), interval_s))
    return series


def series_of(owner: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in owner["series"] if one["name"] == name]
    return found


def test_a_gpus_readings_are_series_with_unit_and_source():
    samples = [gpu(100.5 + i / 2, memory_used_bytes=1000 * i, power_w=70.0 + i) for i in range(4)]
    found = collected(samples).gpus[UUID].to_dict()
    assert (found["index"], found["uuid"]) == (0, UUID)
    memory = series_of(found, "memory_used")
    assert memory == {
        "name": "memory_used",
        "unit": "bytes",
        "source": "the call",
        "reason": None,
        "bin_s": 1.0,
        "mean": [0, 1500, 3000],
        "max": [0, 2000, 3000],
    }
    assert series_of(found, "power")["max"] == [70, 72, 73]
    json.dumps(found)


def test_a_reading_that_is_never_there_has_its_reason():
    found = collected([gpu(101.0 + i, {"sm_util_percent": "not supported"}) for i in range(3)]).gpus[UUID].to_dict()
    utilization = series_of(found, "sm_util")
    assert (utilization["mean"], utilization["reason"]) == ([], "not supported")


def test_gaps_stay_gaps_and_say_how_many_and_why():
    samples = [
        gpu(100.0 + i, temperature_c=40 if i != 1 else None, unknown={"temperature_c": "lost"}) for i in range(3)
    ]
    temperature = series_of(collected(samples).gpus[UUID].to_dict(), "temperature")
    assert (temperature["mean"], temperature["reason"]) == ([40, None, 40], "1 of 3 samples are missing: lost")


def test_the_first_reading_of_a_rate_is_no_gap():
    samples = [gpu(100.5, {"pcie_rx_bytes_per_s": FIRST_READING}), gpu(101.0, pcie_rx_bytes_per_s=5.0)]
    received = series_of(collected(samples).gpus[UUID].to_dict(), "pcie_rx")
    assert (received["mean"], received["reason"]) == ([None, 5], None)


@pytest.mark.parametrize(("source", "reaches"), [("nvml", True), (UUID, True), ("sampler", True), ("GPU-9", False)])
def test_a_series_that_stopped_says_when_and_why(source, reaches):
    series = collected([gpu(100.5, power_w=70.0)])
    series.stop(SeriesStopped(102.25, source, "a call hangs"))
    reason = series_of(series.gpus[UUID].to_dict(), "power")["reason"]
    assert reason == ("stopped 2.2 s after the start: a call hangs" if reaches else None)
    assert series.stopped == {source: "stopped 2.2 s after the start: a call hangs"}


def test_throttling_is_counted_where_there_is_a_counter():
    counters = [
        (("power cap", 0), ("SW thermal slowdown", ns), ("HW thermal slowdown", ns // 2)) for ns in (0, 4 * 10**8)
    ]
    samples = [gpu(101.0 + i, throttled_ns=counter) for i, counter in enumerate(counters)]
    throttled = series_of(collected(samples).gpus[UUID].to_dict(), "throttle")
    assert (throttled["mean"], throttled["unit"], throttled["reason"]) == ([None, None, 0.4], "fraction", None)


def test_throttling_is_what_the_mask_says_where_there_is_no_counter():
    reasons = [("power cap",), ("power cap", "HW slowdown"), None]
    samples = [gpu(100.0 + i, clock_reasons=r, unknown={"clock_reasons": "lost"}) for i, r in enumerate(reasons)]
    throttled = series_of(collected(samples).gpus[UUID].to_dict(), "throttle")
    assert (throttled["mean"], throttled["reason"]) == ([0, 1], "1 of 3 samples are missing: lost")


def test_energy_is_measured_idle_power_estimated_and_shares_attributed():
    # 70 W for 10 s, then 700 W for 10 s, of which "embed" was busy 10 s.
    counter = [70_000 * min(i, 10) + 700_000 * max(0, i - 10) for i in range(21)]
    series = collected([gpu(100.0 + i, energy_mj=mj) for i, mj in enumerate(counter)], interval_s=1.0)
    busy = AmountSeries(100.0, BIN_S)
    busy.spread(110.0, 120.0, 10.0)
    series.account(3, [UUID, "GPU-9"], 110.0, 120.0, 10.0)
    energy = series.gpus[UUID].to_dict([busy])["energy"]
    assert (energy["joules"], energy["seconds"], energy["kind"]) == (7700.0, 20.0, EnergyKind.MEASURED)
    assert energy["idle_watts"] == pytest.approx(70.0)
    found = series.gpus[UUID].attribute({"embed": busy})
    assert found.shares["embed"] == pytest.approx(6300.0)
    assert found.idle_joules == pytest.approx(1400.0)
    assert series.gpus_as_dicts()[UUID]["energy"]["idle_watts"] == pytest.approx(70.0)
    (share,) = series.stage_energy().values()
    assert (share["joules"], share["kind"], share["reason"]) == (pytest.approx(6300.0), "attributed", None)


def test_work_in_bursts_shorter_than_a_sample_gets_all_that_is_above_idle_power():
    # Every half second, a quarter at 700 W and a quarter at 100 W; at the end, rest.
    counter = [200_000 * min(i, 40) + 50_000 * max(0, i - 40) for i in range(61)]
    series = collected([gpu(100.0 + i / 2, energy_mj=mj) for i, mj in enumerate(counter)])
    for i in range(40):
        series.account(0, [UUID], 100.0 + i / 2, 100.25 + i / 2, 0.25)
    share = series.stage_energy()[0]
    assert (share["joules"], share["reason"]) == (pytest.approx(20 * 300.0, rel=0.01), None)


def test_the_share_of_a_short_measurement_says_so():
    series = collected([gpu(100.0, energy_mj=0), gpu(104.0, energy_mj=400_000)])
    series.account(0, [UUID], 100.0, 104.0, 4.0)
    share = series.stage_energy()[0]
    assert share["joules"] == pytest.approx(400.0)
    assert "GPU 0: its counter was read for 4.0 s only" in share["reason"]
    assert "the shares include idle power, which is unknown" in share["reason"]


def test_a_stage_of_a_gpu_that_was_not_sampled_has_no_energy_and_the_reason():
    series = NodeSeries(0.0)
    series.account(0, [UUID], 0.0, 1.0, 1.0)
    assert series.stage_energy() == {0: {"joules": None, "kind": "attributed", "reason": "no sample was taken"}}
    series.stop(SeriesStopped(2.0, "nvml", "a call hangs"))
    assert series.stage_energy()[0]["reason"] == "stopped 2.0 s after the start: a call hangs"


def test_energy_that_cannot_be_read_has_its_reason():
    found = collected([gpu(100.0 + i, {"energy_mj": "not supported"}) for i in range(3)]).gpus[UUID]
    energy = found.to_dict()["energy"]
    assert (energy["joules"], energy["kind"], energy["reason"]) == (None, None, "not supported")
    assert energy["idle_watts"] is None
    assert energy["idle_reason"].startswith("there was less than a second")
    assert found.attribute({}) is None


def test_a_processs_cpu_is_the_growth_of_its_time():
    series = NodeSeries(0.0)
    for at, rss, cpu_s in [(1.0, 100, 1.0), (2.0, 200, 3.0), (3.0, None, None), (5.0, 300, 4.5)]:
        series.add(NodeSampled(at, (), (process(rss=rss, cpu_s=cpu_s),)))
    found = series.processes["w-0", 7].to_dict(uses_gpus=False)
    assert (found["worker"], found["pid"]) == ("w-0", 7)
    assert [one["name"] for one in found["series"]] == ["rss", "cpu"]
    assert series_of(found, "cpu")["mean"] == [None, None, 2, None, None, 0.5]
    assert series_of(found, "rss")["mean"] == [None, 100, 200, None, None, 300]
    assert series_of(found, "rss")["reason"] == "1 of 4 samples are missing: refused"


def test_the_end_of_a_process_is_no_gap():
    series = NodeSeries(0.0)
    series.add(NodeSampled(1.0, (), (process(),)))
    gone = ProcessSample("w-0", 7, None, None, (), {"rss_bytes": ENDED, "cpu_s": ENDED})
    series.add(NodeSampled(2.0, (), (gone,)))
    assert series_of(series.processes["w-0", 7].to_dict(uses_gpus=False), "rss")["reason"] is None


def test_the_series_of_processes_are_bounded_and_the_drivers_stays(monkeypatch):
    monkeypatch.setattr(node_series, "MAX_PROCESSES", 3)
    series = NodeSeries(0.0)
    for number in range(10):
        series.add(NodeSampled(number, (), (process("driver", 1), process(f"w-{number}", number + 2))))
    assert [worker_id for worker_id, _ in series.processes] == ["driver", "w-8", "w-9"]
