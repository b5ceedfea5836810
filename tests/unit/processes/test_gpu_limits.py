"""How much of a GPU a library is told to take, and which versions of PyTorch can be told by a variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.contract.allocation import CONTEXT_BYTES, Allocation, GpuShare
from gpuexec.processes.gpu_limits import GPU_MEMORY_LIMITS, library_limits, mps_limits, reads_fraction
from gpuexec.units import GIB, MIB


def on_gpus(*fractions: float) -> Allocation:
    return Allocation(tuple(GpuShare(i, f"GPU-{i}", "GPU", fraction, None) for i, fraction in enumerate(fractions)))


def share_of(total: int, thousandths: int) -> GpuShare:
    return GpuShare(0, "GPU-0", "GPU", thousandths / 1000, total * thousandths // 1000, total)


QUARTER = Allocation((share_of(80 * GIB, 250),))


def test_each_library_in_its_own_terms():
    assert library_limits(QUARTER, {}, torch_reads_fraction=True) == {
        "PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.2437",  # (20 - 0.5) / 80
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2437",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "CUPY_GPU_MEMORY_LIMIT": str(20 * GIB - 512 * MIB),
    }


@given(
    total=st.integers(1, 512 * GIB),
    thousandths=st.integers(1, 999),
    given_names=st.sets(st.sampled_from(sorted(GPU_MEMORY_LIMITS))),
    by_variable=st.booleans(),
)
def test_no_limit_is_more_than_the_share_and_none_replaces_the_users(total, thousandths, given_names, by_variable):
    share = share_of(total, thousandths)
    own = dict.fromkeys(given_names, "own:1")
    limits = library_limits(Allocation((share,)), own, torch_reads_fraction=by_variable)
    assert set(limits) <= set(GPU_MEMORY_LIMITS)
    for name, value in limits.items():
        if name in own:  # torch's takes several settings
            assert value.startswith("own:1,per_process_memory_fraction:")
        if "FRACTION" in name or "fraction" in value:
            assert 0 <= float(value.rpartition(":")[2]) * total <= share.memory_bytes
        elif name == "CUPY_GPU_MEMORY_LIMIT":
            assert 0 <= int(value) <= share.memory_bytes
    assert share.memory_bytes - CONTEXT_BYTES <= share.allocator_bytes
    assert share.allocator_bytes >= share.memory_bytes // 2


@given(st.lists(st.integers(1, 1000), min_size=1).filter(lambda parts: sum(parts) <= 1000), st.integers(1, 512 * GIB))
def test_the_limits_of_workers_on_one_gpu_fit_it_with_their_contexts(parts, total):
    shares = [share_of(total, thousandths) for thousandths in parts]
    limits = [share.allocator_bytes for share in shares if share.is_partial]
    contexts = sum(min(CONTEXT_BYTES, share.memory_bytes // 2) for share in shares if share.is_partial)
    assert sum(limits) + contexts <= total


def test_the_smallest_share_counts_and_unknown_sizes_are_fractions():
    limits = library_limits(on_gpus(1.0, 0.25), {}, torch_reads_fraction=True)
    assert limits["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.25"
    assert limits["PYTORCH_ALLOC_CONF"] == "per_process_memory_fraction:0.25"
    assert limits["CUPY_GPU_MEMORY_LIMIT"] == "25%"


@pytest.mark.parametrize("allocation", [on_gpus(1.0, 1.0), on_gpus()])
def test_a_gpu_of_ones_own_may_be_taken_whole(allocation: Allocation):
    assert library_limits(allocation, {}, torch_reads_fraction=True) == mps_limits(allocation, {}) == {}


def test_jax_gets_no_fraction_beside_the_users_newer_one():
    limits = library_limits(on_gpus(0.5), {"XLA_CLIENT_MEM_FRACTION": "0.4"}, torch_reads_fraction=False)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in limits


@pytest.mark.parametrize(
    ("own", "name", "value"),
    [
        ({"PYTORCH_CUDA_ALLOC_CONF": "a:1"}, "PYTORCH_CUDA_ALLOC_CONF", "a:1,per_process_memory_fraction:0.25"),
        ({"PYTORCH_ALLOC_CONF": "a:1"}, "PYTORCH_ALLOC_CONF", "a:1,per_process_memory_fraction:0.25"),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, "PYTORCH_ALLOC_CONF", "per_process_memory_fraction:0.25"),
    ],
)
def test_the_fraction_joins_what_the_user_has_set_for_torch(own, name, value):
    limits = library_limits(on_gpus(0.25), own, torch_reads_fraction=True)
    assert {key: limits[key] for key in limits if key.startswith("PYTORCH")} == {name: value}


def test_the_users_own_fraction_for_torch_stays_alone():
    own = {"PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.9"}
    assert not [n for n in library_limits(on_gpus(0.25), own, torch_reads_fraction=True) if n.startswith("PYTORCH")]


def test_an_mps_client_gets_whole_percents_and_mebibytes():
    assert mps_limits(QUARTER, {}) == {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=20480M",
    }
    assert mps_limits(on_gpus(0.001), {}) == {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "1"}
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in mps_limits(QUARTER, {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"})


CUDA_BUILD = "__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\n"


@pytest.mark.parametrize(
    ("version", "cuda", "reads"),
    [
        ("2.9.1+cu128", "12.8", False),
        ("2.10.0+cu130", "13.0", True),
        ("2.10.0", "12.8", True),
        ("2.14.1.post2+cu130", "13.0", True),
        ("3.0.0", "13.0", True),
        ("2.10.0a0+b4e4ee8.nv25.12", "13.1", False),
        ("2.13.0+cpu", None, False),
    ],
)
def test_which_torch_reads_the_fraction(tmp_path: Path, monkeypatch, version: str, cuda: str | None, reads: bool):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('only looked for')")
    (tmp_path / "torch" / "version.py").write_text(CUDA_BUILD.format(version=version, cuda=cuda))
    assert reads_fraction() is reads


def test_a_torch_that_is_one_file_or_not_there(tmp_path: Path, monkeypatch):
    assert reads_fraction() is False, "torch is not installed for these tests"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torch.py").touch()
    assert reads_fraction() is False
