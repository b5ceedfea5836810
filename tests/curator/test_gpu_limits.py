"""The PyTorch that NeMo Curator comes with takes a worker's share, by its variable or when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.processes.gpu_limits import library_limits, reads_fraction
from gpuexec.units import GIB

QUARTER = Allocation((GpuShare(0, "GPU-a", "GPU", 0.25, 20 * GIB, 80 * GIB),))

# torch checks the keys of its variable only when it is asked for them.
ASKS = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
LIMITED = """
from gpuexec.worker.gpu_limits import limit_libraries
from tests.curator.test_gpu_limits import QUARTER
limit_libraries(QUARTER)
import torch
print(torch.cuda._queued_calls[-1][0].__module__, torch.cuda.is_initialized())
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**env, **variables})


def built_for_cuda() -> bool:
    return run("import torch, sys; sys.exit(torch.version.cuda is None)").returncode == 0


def test_torch_takes_the_fraction_that_its_variable_holds():
    limits = library_limits(QUARTER, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, torch_reads_fraction=True)
    done = run(ASKS, PYTORCH_ALLOC_CONF=limits["PYTORCH_ALLOC_CONF"])
    assert done.stdout.strip() == "expandable_segments:True,per_process_memory_fraction:0.2437", done.stderr


def test_only_a_torch_for_cuda_knows_the_key_of_its_variable():
    """A build for CPUs has no allocator that checks the keys, so it is not counted on."""
    refuses_others = "Unrecognized key" in run(ASKS, PYTORCH_ALLOC_CONF="another_key:1").stderr
    assert reads_fraction() == refuses_others == built_for_cuda()


def test_without_the_variable_torch_is_told_at_import_and_cuda_stays_uninitialised():
    done = run(LIMITED)
    assert done.stdout.split() == ["gpuexec.worker.gpu_limits", "False"], done.stderr
