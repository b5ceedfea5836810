"""Environment variables that keep libraries and clients of MPS to a worker's share of a GPU.

========================================  ==================================================================
variable                                  what the library's documentation says of it
========================================  ==================================================================
``PYTORCH_ALLOC_CONF``                    ``per_process_memory_fraction``: of the device, for torch's allocator;
                                          since PyTorch 2.10 (older ones reject the key)
``XLA_PYTHON_CLIENT_MEM_FRACTION``        of the device, for JAX's allocator; by default it takes three quarters
``XLA_PYTHON_CLIENT_PREALLOCATE``         ``false``: JAX takes memory as it needs it
``TF_FORCE_GPU_ALLOW_GROWTH``             ``true``: so does TensorFlow, which by default takes nearly all; there
                                          is no variable for a limit
``CUPY_GPU_MEMORY_LIMIT``                 bytes, or a percentage of the device, for CuPy's pool
``CUDA_MPS_ACTIVE_THREAD_PERCENTAGE``     of the GPU's multiprocessors that a client of MPS may use
``CUDA_MPS_PINNED_DEVICE_MEM_LIMIT``      ``0=1024M``: device memory that a client may allocate on its device 0
========================================  ==================================================================

RMM has no variable; for it, and for older versions of PyTorch, see `gpuexec.worker.gpu_limits`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.gpu_limits import TORCH_CONFS, TORCH_FRACTION
from gpuexec.units import MIB

_JAX_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_JAX_NEWER_FRACTION = "XLA_CLIENT_MEM_FRACTION"  # JAX refuses to start if both are set
_JAX_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_TF_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
_CUPY_LIMIT = "CUPY_GPU_MEMORY_LIMIT"
GPU_MEMORY_LIMITS = (_JAX_FRACTION, _JAX_PREALLOCATE, _TF_GROWTH, _CUPY_LIMIT, *TORCH_CONFS)

_MPS_THREADS, _MPS_MEMORY = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"

_FIRST_TORCH_WITH_FRACTION = (2, 10)
_RELEASE = re.compile(r"^__version__ = '(\d+)\.(\d+)(?:\.\d+)*(?:\.post\d+)?(?:\+[\w.]+)?'$", re.MULTILINE)
_BUILT_FOR_CUDA = re.compile(r"^cuda\b.* = '", re.MULTILINE)
_FRACTION_DIGITS = 4


def library_limits(allocation: Allocation, given: Mapping[str, str], *, torch_reads_fraction: bool) -> dict[str, str]:
    """Return the variables for a worker with a part of a GPU; nothing if its GPUs are its own.

    ``given``: the variables that the user has set, which stay as they are. To what the user has set for torch's
    allocator, the fraction is added, unless it has one.
    """
    share = _partial_share(allocation)
    if share is None:
        return {}
    fraction = _rounded_down(share.allocator_fraction)
    size = share.allocator_bytes
    limits = {
        _JAX_PREALLOCATE: "false",
        _TF_GROWTH: "true",
        _CUPY_LIMIT: f"{float(fraction) * 100:g}%" if size is None else str(size),
    }
    if _JAX_NEWER_FRACTION not in given:
        limits[_JAX_FRACTION] = fraction
    limits = {name: value for name, value in limits.items() if name not in given}
    if torch_reads_fraction and not any(TORCH_FRACTION in given.get(name, "") for name in TORCH_CONFS):
        name = next((name for name in TORCH_CONFS if given.get(name)), TORCH_CONFS[-1])
        limits[name] = ",".join(filter(None, [given.get(name), f"{TORCH_FRACTION}:{fraction}"]))
    return limits


def mps_limits(allocation: Allocation, given: Mapping[str, str]) -> dict[str, str]:
    """Return what MPS reads when a worker with a part of a GPU makes its context. ``given``: as above."""
    share = _partial_share(allocation)
    if share is None:
        return {}
    limits = {_MPS_THREADS: str(max(1, math.floor(share.fraction * 100)))}
    if share.memory_bytes is not None:
        limits[_MPS_MEMORY] = f"0={max(1, share.memory_bytes // MIB)}M"  # the worker's only device
    return {name: value for name, value in limits.items() if name not in given}


def reads_fraction() -> bool:
    """Return whether the PyTorch that is installed takes a fraction from its environment variable.

    It must be of version 2.10 or later, as its headers have it, and built for CUDA. Pre-releases of 2.10 may be older
    than the key. torch is not imported for this.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = find_spec("torch")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            text = Path(folder, "version.py").read_text(encoding="utf-8")
            release = _RELEASE.search(text)
            return (
                release is not None
                and (int(release[1]), int(release[2])) >= _FIRST_TORCH_WITH_FRACTION
                and _BUILT_FOR_CUDA.search(text) is not None
            )
    return False


def _partial_share(allocation: Allocation) -> GpuShare | None:
    share = min(allocation.gpus, key=lambda share: share.fraction, default=None)
    return share if share is not None and share.is_partial else None


def _rounded_down(fraction: float) -> str:
    scale = 10**_FRACTION_DIGITS
    return f"{math.floor(fraction * scale + 1e-9) / scale:g}"
