"""Checks after ``setup`` that CUDA shows a worker the GPUs that it was given. Never creates a CUDA context."""

from __future__ import annotations

import sys
from typing import Any

from gpuexec.contract.allocation import Allocation
from gpuexec.errors import StageContractError


def check_pinning(allocation: Allocation) -> None:
    """Compare the UUIDs of torch's devices with the allocation, if the stage has initialised CUDA.

    Raises ``StageContractError`` if they differ, since the stage would use GPUs of other workers. MIG slices are not
    checked, because some CUDA versions report the UUID of the slice and others that of its GPU.
    """
    torch = torch_with_cuda()
    given = [share.uuid for share in allocation.gpus]
    if torch is None or not given or any(uuid.startswith("MIG-") for uuid in given):
        return
    seen = [_uuid(torch, ordinal) for ordinal in range(torch.cuda.device_count())]
    if None not in seen and seen != given:
        raise StageContractError(
            f"CUDA shows this worker {', '.join(map(str, seen)) or 'no GPU'}, but it was given {', '.join(given)}: "
            "the stage (or a library it imports) changed CUDA_VISIBLE_DEVICES before CUDA started. Remove that change: "
            "gpuexec has already set the variable for this worker"
        )


def torch_with_cuda() -> Any:
    """Return torch if the stage has imported it and initialised CUDA, else ``None``."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_initialized() else None


def _uuid(torch: Any, ordinal: int) -> str | None:
    uuid = getattr(torch.cuda.get_device_properties(ordinal), "uuid", None)  # torch 2.4 and later
    if uuid is None:
        return None
    text = str(uuid)
    return text if text.startswith("GPU-") else f"GPU-{text}"
