"""Readings of GPUs during a run, with the real pynvml and a simulated driver library."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpuexec.errors import NvmlHangs
from gpuexec.hardware import nvml_calls, telemetry
from gpuexec.hardware.nvml_errors import GPU_IS_LOST, NOT_SUPPORTED
from gpuexec.hardware.telemetry import GpuSample, GpuTelemetry
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB
from tests.process.waiting import wait_until

READINGS = [
    "memory_used_bytes",
    "memory_total_bytes",
    "sm_util_percent",
    "memory_util_percent",
    "power_w",
    "energy_mj",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "clock_reasons",
    "throttled_ns",
    "pcie_rx_bytes_per_s",
    "pcie_tx_bytes_per_s",
    "processes",
]


@pytest.fixture(autouse=True)
def our_pids_are_those_of_the_machine(monkeypatch):
    monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: True)


@contextmanager
def reading(node: dict[str, Any], limit_s: float = 2.0) -> Iterator[Callable[[], tuple[GpuSample, ...]]]:
    """Yield a function that reads all GPUs of a node."""
    with nvml_calls.session(limit_s) as reader:
        yield GpuTelemetry(reader, [gpu["uuid"] for gpu in node["gpus"]]).read


def read_twice(nvml_node, node: dict[str, Any]) -> tuple[GpuSample, ...]:
    """Return the second sample of each GPU, which has rates."""
    nvml_node(node)
    with reading(node) as read:
        first = read()
        wait_until(lambda: time.monotonic() > first[-1].at + 0.01)
        return read()


def test_everything_that_a_gpu_offers_is_read(nvml_node):
    node = nodes.node(nodes.metered(0, processes=[{"pid": 1, "used_bytes": 3 * GIB}], clocks_event_reasons=0x44))
    (gpu,) = read_twice(nvml_node, node)
    assert gpu.unknown == {}
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (3 * GIB, 80 * GIB)
    assert (gpu.sm_util_percent, gpu.memory_util_percent) == (60, 25)
    assert (gpu.power_w, gpu.temperature_c) == (70.0, 34)
    assert gpu.energy_mj > 10**9
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz) == (1980, 2619)
    assert gpu.clock_reasons == ("power cap", "HW thermal slowdown")
    assert dict(gpu.throttled_ns)["SW thermal slowdown"] == 0
    assert gpu.pcie_rx_bytes_per_s == pytest.approx(2e9, rel=0.5)
    assert gpu.pcie_tx_bytes_per_s == pytest.approx(1e9, rel=0.5)
    assert gpu.processes == ((1, 3 * GIB),)
    assert gpu.sources.keys() == set(READINGS)
    assert gpu.sources["energy_mj"] == "nvmlDeviceGetFieldValues, 83"
    assert gpu.sources["throttled_ns"] == "nvmlDeviceGetFieldValues, 74, 269, 270, 271"


def test_what_is_not_supported_is_absent_with_the_reason_and_not_asked_for_again(nvml_node, tmp_path):
    refused = ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetFieldValues", "energy_mj"]
    log = tmp_path / "calls"
    node = nodes.node(nodes.metered(0, unsupported=[*refused, "power_mw", "pcie_rx_bytes_per_s"]), call_log=str(log))
    (gpu,) = read_twice(nvml_node, node)
    absent = [
        "energy_mj",
        "memory_util_percent",
        "pcie_rx_bytes_per_s",
        "power_w",
        "sm_util_percent",
        "temperature_c",
        "throttled_ns",
    ]
    assert sorted(gpu.unknown) == absent
    assert {name: getattr(gpu, name) for name in absent} == dict.fromkeys(absent)
    assert {gpu.unknown[name] for name in absent if name != "throttled_ns"} == {NOT_SUPPORTED}
    assert gpu.unknown["throttled_ns"] == telemetry.NOT_COUNTED
    assert gpu.pcie_tx_bytes_per_s == 1e9  # from the call that replaces the counters
    calls = [line.split()[1] for line in log.read_text().splitlines()]
    assert calls.count("nvmlDeviceGetUtilizationRates") == calls.count("nvmlDeviceGetTotalEnergyConsumption") == 1


@pytest.mark.parametrize(
    ("lacks", "reading", "source"),
    [
        ({"unsupported": ["nvmlDeviceGetFieldValues"]}, "energy_mj", "nvmlDeviceGetTotalEnergyConsumption"),
        ({"power_average_mw": None}, "power_w", "nvmlDeviceGetPowerUsage"),
        ({"pcie_rx_bytes": None}, "pcie_rx_bytes_per_s", "nvmlDeviceGetPcieThroughput"),
        ({"pcie_rx_bytes": None}, "pcie_tx_bytes_per_s", "nvmlDeviceGetPcieThroughput"),
    ],
)
def test_a_call_replaces_a_field_that_is_missing(nvml_node, lacks, reading, source):
    node = nodes.node(nodes.metered(0, counted_at_ns=None, **lacks))
    (gpu,) = read_twice(nvml_node, node)
    expected = {"energy_mj": 10**9, "power_w": 70.0, "pcie_rx_bytes_per_s": 2e9, "pcie_tx_bytes_per_s": 1e9}
    assert (getattr(gpu, reading), gpu.sources[reading]) == (expected[reading], source)
    assert gpu.unknown.keys() <= {"throttled_ns"}


def test_calls_that_take_long_are_made_for_one_gpu_after_the_other(nvml_node):
    node = nodes.node(*(nodes.metered(number, pcie_tx_bytes=None) for number in range(3)))
    nvml_node(node)
    with reading(node) as read:
        for turn in range(4):
            gpus = read()
            assert [gpu.pcie_rx_bytes_per_s for gpu in gpus] == [
                2e9 if number == turn % 3 else None for number in range(3)
            ]
            assert {gpu.unknown.get("pcie_rx_bytes_per_s") for gpu in gpus} == {None, telemetry.IN_TURN}


def test_a_counter_that_goes_back_has_no_rate(nvml_node):
    description = nodes.node(nodes.metered(0))
    node = nvml_node(description)
    with reading(description) as read:
        assert read()[0].unknown["pcie_rx_bytes_per_s"] == telemetry.FIRST_READING
        node.change(lambda d: d["gpus"][0].update(pcie_rx_bytes=5))
        (gpu,) = read()
        assert gpu.pcie_rx_bytes_per_s is None
        assert gpu.unknown["pcie_rx_bytes_per_s"] == telemetry.COUNTER_WENT_BACK


def test_an_older_driver_has_memory_all_the_same(nvml_node):
    node = nodes.node(nodes.metered(0, unsupported=["nvmlDeviceGetMemoryInfo_v2"]))
    (gpu,) = read_twice(nvml_node, node)
    assert gpu.memory_used_bytes == 512 * nodes.MIB  # the driver's reserve


def test_a_lost_gpu_has_reasons_and_the_others_are_read(nvml_node):
    description = nodes.node(nodes.metered(0), nodes.metered(1))
    node = nvml_node(description)
    with reading(description) as read:
        read()
        node.change(lambda d: d["gpus"][1].update(lost=True))
        healthy, lost = read()
    assert healthy.unknown.keys() <= {"pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s"}  # no time has passed
    assert lost.unknown == dict.fromkeys(READINGS, GPU_IS_LOST)


def test_a_gpu_that_is_not_found_is_missing(nvml_node):
    nvml_node(nodes.node(nodes.metered(0)))
    with nvml_calls.session() as reader:
        read = GpuTelemetry(reader, [nodes.uuid(0), nodes.uuid(7)])
        assert [gpu.uuid for gpu in read.read()] == [nodes.uuid(0)]
        assert read.missing == {nodes.uuid(7): "no GPU that answers has this UUID"}


def test_processes_have_a_reason_in_a_container_and_on_a_divided_gpu(nvml_node, monkeypatch):
    slices = nodes.mig()["gpus"][0]["mig"]
    node = nodes.node(nodes.metered(0), nodes.metered(1, mig=slices))
    nvml_node(node)
    with nvml_calls.session() as reader:
        whole, divided = GpuTelemetry(reader, [nodes.uuid(0), nodes.uuid(0, "MIG")]).read()
        assert whole.processes == ()
        assert divided.unknown["processes"] == telemetry.DIVIDED
        assert divided.unknown["sm_util_percent"] == NOT_SUPPORTED
        monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: False)
        (whole,) = GpuTelemetry(reader, [nodes.uuid(0)]).read()
        assert (whole.processes, whole.unknown["processes"]) == (None, telemetry.OTHER_NAMESPACE)


def test_a_process_that_is_listed_without_its_size(nvml_node):
    node = nodes.node(nodes.metered(0))
    nvml_node(node)
    simulator.hold_memory(0, None)
    with reading(node) as read:
        assert read()[0].processes == ((os.getpid(), None),)


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetMemoryInfo",
    ],
)
def test_a_hang_names_the_call_and_the_gpu(nvml_node, call):
    description = nodes.node(nodes.metered(0), nodes.metered(1))
    node = nvml_node(description)
    with reading(description, limit_s=0.2) as read:
        read()
        node.hang(call, gpu=1)
        with pytest.raises(NvmlHangs, match=f"the NVML call {call}.* for GPU 1 does not return"):
            read()
        node.release()
        wait_until(lambda: nvml_calls.hung_call() is None)
        assert len(read()) == 2  # as soon as the call has returned
