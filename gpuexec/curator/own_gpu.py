"""Makes NeMo Curator's helpers that ask NVML for its GPU 0 give a worker's own GPU.

They take the first GPU that Ray names, or index 0 without Ray. NVML ignores ``CUDA_VISIBLE_DEVICES``, so in a worker
index 0 is whichever GPU the machine lists first.
"""

from __future__ import annotations

import contextlib
from typing import Any

from gpuexec.contract.allocation import Allocation
from gpuexec.curator import registration
from gpuexec.errors import NvmlHangs, NvmlUnavailable

_HELPERS = ("nemo_curator.stages.deduplication.gpu_utils", "nemo_curator.stages.resources")


def show_own_gpu(allocation: Allocation) -> None:
    """Have Curator's helpers ask for the worker's GPUs, whether they are imported already or later."""
    if not allocation.gpus:
        return
    uuid = allocation.gpus[0].uuid

    def patch_memory(module: Any) -> None:
        module.get_device_free_memory = free_memory

    def patch_size(module: Any) -> None:
        original = module._get_gpu_memory_gb

        def size_gb() -> float:
            total = _memory(uuid, "total")
            if total is None:
                _refuse_if_nvml_hangs()  # as the original would, for ever
            return float(original()) if total is None else total / 1024**3

        module._get_gpu_memory_gb = size_gb

    def free_memory() -> int | None:
        """Return the free bytes of this worker's first GPU, ``None`` if NVML cannot say them."""
        return _memory(uuid, "free")

    for name, patch in zip(_HELPERS, (patch_memory, patch_size), strict=True):
        registration.after_import(name, patch)


def _refuse_if_nvml_hangs() -> None:
    from gpuexec.hardware import nvml_calls, nvml_errors

    hang = nvml_calls.hung_call()
    if hang is not None:
        raise NvmlHangs(nvml_errors.with_remedy(hang))


def _memory(uuid: str, field: str) -> int | None:
    """Return the ``total`` or ``free`` bytes of a device, ``None`` if they cannot be read."""
    from gpuexec.hardware import nvml_calls  # only a stage that asks pays for it

    with contextlib.suppress(NvmlUnavailable), nvml_calls.session(nvml_calls.RUNNING_TIMEOUT_S) as reader:
        library = reader.nvml
        handle, _ = reader.ask(library.nvmlDeviceGetHandleByUUID, uuid)
        memory, _ = reader.ask(library.nvmlDeviceGetMemoryInfo, handle) if handle is not None else (None, "")
        return None if memory is None else int(getattr(memory, field))
    return None
