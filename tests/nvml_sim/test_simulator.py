"""The simulator against the tools that users read GPUs with: it must satisfy more than our own code."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time

import pynvml
import pytest

from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB


def gpustat() -> dict:
    command = [sys.executable, "-W", "ignore", "-m", "gpustat", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("make", [nodes.small, nodes.eight_nvlink, nodes.unequal, nodes.held])
def test_gpustat_lists_the_same_gpus(nvml_node, make):
    description = make()
    nvml_node(description)
    listing = gpustat()
    assert listing["driver_version"] == description["driver_version"]
    for number, (seen, wanted) in enumerate(zip(listing["gpus"], description["gpus"], strict=True)):
        assert (seen["index"], seen["uuid"], seen["name"]) == (number, wanted["uuid"], wanted["name"])
        assert seen["memory.total"] == wanted["memory_total_bytes"] // 2**20
        assert seen["temperature.gpu"] == 34
        assert seen["power.draw"] == 70
        assert seen["memory.used"] == sum(p["used_bytes"] for p in wanted["processes"]) // 2**20


def test_every_symbol_of_the_header_is_there(nvml_library):
    library = ctypes.CDLL(str(nvml_library))
    names = [name for name, _ in simulator.declared_functions()]
    assert len(names) > 300
    assert [name for name in names if not hasattr(library, name)] == []


@pytest.fixture
def nvml():
    pynvml.nvmlInit()
    yield pynvml
    pynvml.nvmlShutdown()


def test_memory_v1_counts_the_reserve_as_used_and_v2_does_not(nvml_node, request):
    nvml_node(nodes.held())
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    v1, v2 = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    assert v2.used == 70 * GIB
    assert v1.used == v2.used + v2.reserved
    assert v1.free == v2.free == v2.total - v2.used - v2.reserved


def test_a_change_of_the_file_is_seen_at_once(nvml_node, request):
    node = nvml_node(nodes.small())
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)] == []
    simulator.hold_memory(0, 5 * GIB)
    (process,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert (process.pid, process.usedGpuMemory) == (os.getpid(), 5 * GIB)
    node.change(lambda d: d.update(hide_pids=True))
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []


def test_a_lost_gpu(nvml_node, request):
    nvml_node(nodes.lost())
    request.getfixturevalue("nvml")
    assert pynvml.nvmlDeviceGetCount() == 3
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByIndex(1)
    handle = pynvml.nvmlDeviceGetHandleByIndex(2)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetName(handle)
    assert pynvml.nvmlDeviceGetCpuAffinity(handle, 1)[0] == 0b11


def test_an_xid_event_wakes_a_waiter(nvml_node, request):
    node = nvml_node(nodes.eight_nvlink())
    request.getfixturevalue("nvml")
    events = pynvml.nvmlEventSetCreate()
    for number in range(2):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait(events, 0)
    writer = threading.Thread(target=node.change, args=(lambda d: d["gpus"][1].update(xids=[79]),))
    writer.start()
    event = pynvml.nvmlEventSetWait(events, 10_000)
    writer.join()
    assert event.eventData == 79
    assert pynvml.nvmlDeviceGetIndex(event.device) == 1
    pynvml.nvmlEventSetFree(events)


def test_a_lost_gpu_ends_every_wait_after_the_events_that_are_left(nvml_node, request):
    node = nvml_node(nodes.mig())
    request.getfixturevalue("nvml")
    events = pynvml.nvmlEventSetCreate()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    node.change(lambda d: d["gpus"][0].update(lost=True, xids=[[94, 3], 79]))
    seen = [pynvml.nvmlEventSetWait(events, 0) for _ in range(2)]
    assert [(event.eventData, event.gpuInstanceId) for event in seen] == [(94, 3), (79, 0xFFFFFFFF)]
    for _ in range(2):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            pynvml.nvmlEventSetWait(events, 10_000)
    pynvml.nvmlEventSetFree(events)


def test_clocks_limits_and_counters(nvml_node, request):
    nvml_node(nodes.node(nodes.gpu(0, sm_clock_mhz=1980, power_limit_mw=700_000, throttled_ns={"269": 2**40})))
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == 1980
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 700_000
    counted, not_counted = pynvml.nvmlDeviceGetFieldValues(handle, [269, 270])
    assert (counted.nvmlReturn, counted.value.ullVal) == (pynvml.NVML_SUCCESS, 2**40)
    assert not_counted.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_mig_slices(nvml_node, request):
    nvml_node(nodes.mig())
    request.getfixturevalue("nvml")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    slice_ = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    assert pynvml.nvmlDeviceGetName(slice_) == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert pynvml.nvmlDeviceIsMigDeviceHandle(slice_).value == 1
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(slice_)
    assert pynvml.nvmlDeviceGetUUID(parent) == nodes.uuid(0)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 3)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(gpu)


def test_energy_is_the_integral_of_the_power(nvml_node, request):
    nvml_node(nodes.node(nodes.metered(0, power_mw=300_000)))
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def read() -> tuple[float, int, float]:
        return time.monotonic(), pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), time.monotonic()

    def grows_by(milliwatts: int) -> None:
        before, first, after = read()
        time.sleep(0.05)
        before_second, second, after_second = read()
        assert milliwatts * (before_second - after) - 2 <= second - first <= milliwatts * (after_second - before) + 2

    grows_by(300_000)
    _, counted, _ = read()
    simulator.draw_power(0, 700)
    grows_by(700_000)
    assert read()[1] > counted
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 700_000


def test_fields_are_those_of_the_calls(nvml_node, request):
    nvml_node(nodes.node(nodes.metered(0, unsupported=["pcie_tx_bytes"], counted_at_ns=None)))
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    energy, power, sent, received = pynvml.nvmlDeviceGetFieldValues(handle, [83, 185, 197, 198])
    assert energy.value.ullVal == pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 10**9
    assert (power.valueType, power.value.uiVal) == (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 70_000)
    assert sent.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert received.value.ullVal == 2**40
    assert pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_RX_BYTES) == 2_000_000
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    assert (rates.gpu, rates.memory) == (60, 25)


def test_a_call_can_be_unsupported(nvml_node, request):
    nvml_node(nodes.node(nodes.metered(0, unsupported=["nvmlDeviceGetTemperature"])))
    request.getfixturevalue("nvml")
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 70_000
