"""What is measured on GPUs, done by a real torch on the CPU: the same calls, with other devices."""

from __future__ import annotations

import pytest

from gpuexec.bench.builtin import gpu_stage
from gpuexec.bench.builtin.arrays import TorchArrays, load_arrays
from gpuexec.units import MIB

torch = pytest.importorskip("torch")


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> TorchArrays:
    monkeypatch.setattr(gpu_stage, "_SIZES", {"float32": 64, "float16": 32})
    return TorchArrays(torch, "cpu")


def test_a_device_is_measured(arrays: TorchArrays):
    found = {reading["key"]: reading for reading in gpu_stage.readings(arrays, 1, MIB)}
    assert found.keys() == {"to_device", "from_device", "product_float32", "product_float16", "decode"}
    for key in ("to_device", "from_device", "product_float32"):
        assert found[key]["reason"] is None
        assert found[key]["values"][0] > 0
    assert found["decode"]["values"] == []
    assert "torchvision" in found["decode"]["reason"]


def test_a_copy_copies_and_a_product_is_one(arrays: TorchArrays):
    target, source = arrays.device(0, 8), arrays.host(8)
    source += 7
    arrays.copy(target, source)
    assert target.tolist() == [7] * 8
    product = arrays.product(0, 16, "float32")()
    assert torch.allclose(product, torch.ones(16, 16))


def test_it_is_kept_busy_for_a_while(arrays: TorchArrays):
    began, ended = gpu_stage.keep_busy(arrays, 0.05)
    assert ended - began >= 0.05


def test_a_torch_that_sees_no_gpu_says_so():
    found, reason = load_arrays()
    assert found is None
    assert "torch sees no GPU" in reason
