"""What NeMo Curator's helpers for GPU memory say in a worker, as far as Curator is not needed for it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.curator import own_gpu, registration
from gpuexec.errors import NvmlHangs
from gpuexec.hardware import nvml_calls
from tests.nvml_sim import nodes
from tests.process.waiting import wait_until


def test_while_nvml_hangs_no_helper_does(nvml_node, monkeypatch):
    node = nvml_node(nodes.unequal())
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "0.2")
    patches: list[Callable[[Any], None]] = []
    monkeypatch.setattr(registration, "after_import", lambda _, patch: patches.append(patch))
    module = SimpleNamespace(_get_gpu_memory_gb=lambda: pytest.fail("it would hang"))
    own_gpu.show_own_gpu(Allocation((GpuShare(1, nodes.uuid(1), "GPU", 1.0, None),)))
    for patch in patches:
        patch(module)
    assert module._get_gpu_memory_gb() == 24
    node.hang("nvmlDeviceGetMemoryInfo", gpu=1)
    with pytest.raises(NvmlHangs, match="nvmlDeviceGetMemoryInfo"):
        module._get_gpu_memory_gb()
    assert module.get_device_free_memory() is None
    node.release()
    wait_until(lambda: nvml_calls.hung_call() is None)
    assert module.get_device_free_memory() == int(23.5 * nodes.GIB)
