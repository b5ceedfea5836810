"""Recognises that a GPU is out of memory, and frees what can be freed. Imports no GPU library."""

from __future__ import annotations

import gc
import sys

from gpuexec.errors import error_names_match, names_of

_TYPES = (
    "torch.OutOfMemoryError",
    "torch.cuda.OutOfMemoryError",
    "cupy.cuda.memory.OutOfMemoryError",
    "rmm.librmm.OutOfMemoryError",
)
_TEXTS = ("CUDA out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "RESOURCE_EXHAUSTED")


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the exception means that, by its type or by its text (RuntimeErrors of libraries and XLA's errors)."""
    return error_names_match(names_of(error), _TYPES) or any(text in str(error) for text in _TEXTS)


def free_gpu_cache() -> None:
    """Collect garbage and let torch's allocator return the memory that it caches."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
