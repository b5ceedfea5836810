"""How GPUs are, read over the simulated driver."""

from __future__ import annotations

import dataclasses

import pynvml
import pytest

from gpuexec.hardware.health import GpuHealth, RecoveryAction, read_health
from gpuexec.hardware.nvml_errors import GPU_IS_LOST, NOT_SUPPORTED
from tests.nvml_sim import nodes


def test_everything_that_is_read(nvml_node):
    fields = {"3": 7, "4": 2, "6": 5, "29": 1, "30": 2, "31": 1, "142": 3, "143": 4, "144": 1, "145": 1, "230": 4}
    gpu = nodes.well(
        0,
        persistence_mode=False,
        ecc={"current": True, "pending": False},
        mig={"enabled": False, "pending": True},
        pcie_link={"width": 8, "max_width": 16, "generation": 1, "max_generation": 4},
        clocks_event_reasons=0x40,
        throttled_ns={"74": 1, "269": 2, "270": 3, "271": 4},
        fields=fields,
    )
    nvml_node(nodes.node(nodes.well(1), gpu))
    listing = read_health()
    assert (listing.reason, listing.error, listing.hang) == (None, None, None)
    assert listing.gpus[1] == GpuHealth(
        index=1,
        uuid=nodes.uuid(0),
        persistence_mode=False,
        mig_enabled=False,
        mig_pending=True,
        ecc_enabled=True,
        ecc_pending=False,
        ecc_corrected=7,
        ecc_uncorrected=2,
        ecc_uncorrected_ever=5,
        retired_pages_single=1,
        retired_pages_double=2,
        retirement_pending=1,
        remapped_correctable=3,
        remapped_uncorrectable=4,
        remap_pending=1,
        remap_failed=1,
        recovery_action=RecoveryAction.DRAIN_AND_RESET,
        pcie_width=8,
        pcie_max_width=16,
        pcie_generation=1,
        pcie_max_generation=4,
        clock_reasons=("HW thermal slowdown",),
        throttled_ns={
            "power cap": 1,
            "SW thermal slowdown": 2,
            "HW thermal slowdown": 3,
            "HW power brake slowdown": 4,
        },
    )


def test_what_a_gpu_does_not_have_is_none_with_its_reason(nvml_node):
    nvml_node(nodes.small())
    (gpu,) = read_health().gpus
    readings = [f.name for f in dataclasses.fields(gpu) if f.name not in {"index", "uuid", "unknown"}]
    assert [getattr(gpu, name) for name in readings] == [None] * len(readings)
    assert gpu.unknown == dict.fromkeys(readings, NOT_SUPPORTED)


def test_a_lost_gpu_does_not_hide_the_others(nvml_node):
    nvml_node(nodes.node(nodes.well(0), nodes.well(1, lost=True), nodes.well(2, lost=True, lost_late=True)))
    well, lost, lost_late = read_health().gpus
    assert well.recovery_action is RecoveryAction.NONE.value
    assert lost.unknown == {"handle": GPU_IS_LOST}
    assert lost_late.uuid is None
    assert set(lost_late.unknown.values()) == {GPU_IS_LOST}


@pytest.mark.parametrize(
    "number", [pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, 999]
)
def test_why_nvml_cannot_be_used(nvml_node, number):
    nvml_node({**nodes.small(), "init_error": number})
    listing = read_health()
    assert (listing.gpus, listing.error) == ((), number)
    assert f"NVML error {number}" in listing.reason


def test_a_call_that_hangs_is_named(nvml_node, monkeypatch):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "0.05")
    node = nvml_node(nodes.node(nodes.well(0), nodes.well(1)))
    node.hang("nvmlDeviceGetEccMode", gpu=1)
    try:
        listing = read_health()
        assert "nvmlDeviceGetEccMode for GPU 1" in listing.hang
        assert listing.gpus[0].ecc_enabled
        assert listing.gpus[1].ecc_enabled is None
        assert "does not return" in listing.gpus[1].unknown["ecc_enabled"]
    finally:
        node.release()
