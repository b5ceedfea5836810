"""Which failures point at the option for GPUs, and which do not."""

from __future__ import annotations

import traceback

import pytest

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.gpu_hints import hint_for

UUID = "GPU-00000001-1111-2222-3333-444444444401"
ON_CPUS = Allocation()
ON_A_GPU = Allocation(gpus=(GpuShare(1, UUID, "NVIDIA A10", 1.0, None),), cuda_visible_devices=UUID)
BY_INDEX = Allocation(gpus=ON_A_GPU.gpus, cuda_visible_devices="1")


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: 0 active drivers ([]). There should only be one.",
        "jaxlib.xla_extension.XlaRuntimeError: FAILED_PRECONDITION: No visible GPU devices.",
        "RuntimeError: CUDA error: no CUDA-capable device is detected",
        "ValueError: invalid literal for int() with base 10: ''",
        "numba.cuda.cudadrv.error.CudaSupportError: CUDA_ERROR_NO_DEVICE (100)",
    ],
)
def test_a_cpu_stage_that_finds_no_gpu(text):
    assert "cpu_stages_see_gpus=True" in str(hint_for(text, ON_CPUS))
    assert hint_for(text, ON_A_GPU) is None


def test_the_line_that_raised_counts_but_not_the_folder_of_the_script():
    frame = '  File "/home/me/gpu-cleaning/stage.py", line 3, in setup\n    {}\n'
    head = "Traceback (most recent call last):\n"
    about = head + frame.format("assert torch.cuda.is_available()") + "AssertionError\n"
    other = head + frame.format('raise ValueError("empty document")') + "ValueError: empty document\n"
    assert hint_for("AssertionError", ON_CPUS, about) is not None
    assert hint_for("ValueError: empty document", ON_CPUS, other) is None


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        (f"int({UUID!r})", ValueError),
        (f"float({UUID!r})", ValueError),
        (f"{{0: 'a'}}[{UUID!r}]", KeyError),
        (f"int({UUID!r}.split('-')[0])", ValueError),
    ],
)
def test_a_library_that_trips_over_a_uuid(expression, error):
    with pytest.raises(error) as caught:
        eval(expression)
    text = "".join(traceback.format_exception_only(caught.value))
    assert "gpu_pinning='index'" in str(hint_for(text, ON_A_GPU))
    assert hint_for(text, BY_INDEX) is None


def test_native_code_that_trips_over_a_uuid():
    lines = "terminate called after throwing an instance of 'std::invalid_argument'\n  what():  stoi"
    assert "gpu_pinning='index'" in str(hint_for(lines, ON_A_GPU))


def test_other_failures_get_no_hint():
    assert hint_for("torch.OutOfMemoryError: CUDA out of memory", ON_A_GPU) is None
    assert hint_for("ValueError: invalid literal for int() with base 10: 'seven'", ON_A_GPU) is None
    assert hint_for("KeyError: 'text'", ON_CPUS) is None


def test_a_worker_that_runs_out_of_its_share_is_told_its_size():
    share = GpuShare(1, UUID, "NVIDIA A10", 0.5, 12 * 2**30, 24 * 2**30)
    on_a_part = Allocation(gpus=(share,), cuda_visible_devices=UUID)
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert "share of GPU 1 is 12.00 GiB" in str(hint_for(text, on_a_part))
    assert hint_for(text, on_a_part, limits_share=False) is None
    assert hint_for(text, ON_A_GPU) is None
    assert hint_for("ValueError: no", on_a_part) is None
