"""How a library says that it is out of GPU memory, and where PyTorch takes a limit from."""

from __future__ import annotations

# torch reads the first of them that is set (c10/cuda/CUDAAllocatorConfig.h).
TORCH_CONFS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
TORCH_FRACTION = "per_process_memory_fraction"

OUT_OF_MEMORY_TYPES = (
    "torch.OutOfMemoryError",
    "torch.cuda.OutOfMemoryError",
    "cupy.cuda.memory.OutOfMemoryError",
    "rmm.librmm.OutOfMemoryError",
    "gpuexec.errors.GpuShareExceeded",
)
OUT_OF_MEMORY_TEXTS = (
    "CUDA out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "RESOURCE_EXHAUSTED",
    "out_of_memory: RMM failure",
)
