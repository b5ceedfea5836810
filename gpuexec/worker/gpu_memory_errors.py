"""Recognises that a GPU is out of memory, and frees what can be freed. Imports no GPU library."""

from __future__ import annotations

import gc
import sys

from gpuexec.contract.gpu_limits import OUT_OF_MEMORY_TEXTS, OUT_OF_MEMORY_TYPES
from gpuexec.errors import error_names_match, names_of


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the exception means that, by its type or by its text (RuntimeErrors of libraries and XLA's errors)."""
    return error_names_match(names_of(error), OUT_OF_MEMORY_TYPES) or any(
        text in str(error) for text in OUT_OF_MEMORY_TEXTS
    )


def free_gpu_cache() -> None:
    """Collect garbage and let torch's allocator return the memory that it caches."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
