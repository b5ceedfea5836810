"""Tells a worker's share of a GPU to libraries that read no environment variable for it, as soon as they are imported.

Nothing here creates a CUDA context. What the stage sets afterwards replaces these limits.
"""

from __future__ import annotations

import os
from typing import Any

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.gpu_limits import TORCH_CONFS, TORCH_FRACTION
from gpuexec.stage.after_import import after_import


def limit_libraries(allocation: Allocation) -> None:
    """Limit torch's allocator, unless a variable does so, and RMM's memory resource, when the stage imports them.

    ``allocation``: with a part of one GPU, which CUDA calls device 0 here.
    """
    (share,) = allocation.gpus
    if not any(TORCH_FRACTION in os.environ.get(name, "") for name in TORCH_CONFS):
        after_import("torch", lambda torch: _limit_torch(torch, share))
    if share.allocator_bytes is not None:
        after_import("rmm", lambda rmm: _limit_rmm(rmm, share))


def _limit_torch(torch: Any, share: GpuShare) -> None:
    """Have the fraction set when CUDA is initialised.

    ``set_per_process_memory_fraction`` would initialise it at once: a stage that then forks, or does without CUDA after
    all, would be worse off. torch itself defers its seeds by the same function.
    """
    defer = getattr(getattr(torch, "cuda", None), "_lazy_call", None)
    if defer is not None:  # it is there since PyTorch 0.4
        defer(lambda: torch.cuda.set_per_process_memory_fraction(share.allocator_fraction, 0))


def _limit_rmm(rmm: Any, share: GpuShare) -> None:
    resource = rmm.mr.LimitingResourceAdaptor(rmm.mr.CudaMemoryResource(), share.allocator_bytes)
    rmm.mr.set_per_device_resource(0, resource)
