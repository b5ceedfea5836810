"""Series of a run's samples: figures, sources, gaps with their reasons, and bounded size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpuexec.events import NodeSampled, SeriesStopped
from gpuexec.hardware.process_readings import ENDED, ProcessSample
from gpuexec.hardware.telemetry import FIRST_READING, GpuSample
from gpuexec.report import node_series
from gpuexec.report.node_series import NodeSeries

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
