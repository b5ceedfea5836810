"""Names of the figures that gpuexec adds to a batch's ``custom_metrics``, and how figures are added up.

========================================  ==========================================================
key                                       meaning
========================================  ==========================================================
``gpuexec.input_bytes``                   pickled size of the batch's input tasks, in bytes
``gpuexec.oom_splits``                    how often a batch was halved because a GPU ran out of memory
``gpuexec.gpu<i>.torch_allocated_bytes``  torch's allocator after the batch: tensors alive
``gpuexec.gpu<i>.torch_reserved_bytes``   torch's allocator after the batch: held from the driver
``gpuexec.gpu<i>.torch_peak_bytes``       torch's allocator during the batch: most tensors alive
``gpuexec.gpu<i>.process_used_bytes``     NVML's entry for the process after the batch
``gpuexec.gpu<i>.process_peak_bytes``     most of NVML's entry during the batch (sampled every 50 ms)
``gpuexec.gpu<i>.memory_source.<s>``      1.0 for the source ``s`` used: torch, nvml_process, absent
``gpuexec.gpu<i>.memory_absent.<why>``    1.0 for the reason why there is no figure
========================================  ==========================================================

``<i>`` is the GPU's NVML index. A figure that could not be read has no key at all; it is never 0.
The memory figures are levels: of two batches the larger one counts. Curator's own
``StagePerfStats.__add__`` sums every custom metric; read peaks from its per-batch arrays
(``TaskPerfUtils.collect_stage_metrics``) with ``max``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

INPUT_BYTES = "gpuexec.input_bytes"
OOM_SPLITS = "gpuexec.oom_splits"
TORCH_ALLOCATED = "torch_allocated_bytes"
TORCH_RESERVED = "torch_reserved_bytes"
TORCH_PEAK = "torch_peak_bytes"
PROCESS_USED = "process_used_bytes"
PROCESS_PEAK = "process_peak_bytes"

_PEAK_SUFFIX = "_peak_bytes"
_PEAK_KEY = re.compile(r"gpuexec\.gpu(\d+)\.(\w+_peak_bytes)")
_LEVELS = (TORCH_ALLOCATED, TORCH_RESERVED, PROCESS_USED)


def gpu_key(index: int, name: str) -> str:
    """Return the key of a figure of the GPU with this NVML index."""
    return f"gpuexec.gpu{index}.{name}"


def merge_metrics(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """Add up the metrics of two batches: sums, but the larger one of two memory levels."""
    merged = dict(a)
    add_metrics(merged, b)
    return merged


def add_metrics(total: dict[str, float], more: Mapping[str, float]) -> None:
    """`merge_metrics` in place."""
    for key, value in more.items():
        if key not in total:
            total[key] = value
        elif _is_level(key):
            total[key] = max(total[key], value)
        else:
            total[key] += value


def gpu_peaks(metrics: Mapping[str, float]) -> list[tuple[int, str, float]]:
    """Return (NVML index, figure's name, bytes) of every peak, by GPU and name."""
    found = ((_PEAK_KEY.fullmatch(key), value) for key, value in metrics.items())
    return sorted((int(m[1]), m[2], value) for m, value in found if m)


def _is_level(key: str) -> bool:
    if key is INPUT_BYTES:
        return False
    if key.endswith(_PEAK_SUFFIX):
        return True
    return key.startswith("gpuexec.gpu") and key.endswith(_LEVELS)
