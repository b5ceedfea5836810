"""Names of the metrics that gpuexec adds to a batch's ``custom_metrics``, and how metrics of batches are combined.

========================================  ==========================================================
key                                       meaning
========================================  ==========================================================
``gpuexec.input_bytes``                   pickled size of the batch's input tasks, in bytes
``gpuexec.oom_splits``                    how often a batch was halved because a GPU ran out of memory
``gpuexec.gpu<i>.torch_allocated_bytes``  memory of live tensors in torch's allocator after the batch
``gpuexec.gpu<i>.torch_reserved_bytes``   memory that torch's allocator holds from the driver after the batch
``gpuexec.gpu<i>.torch_peak_bytes``       peak memory of live tensors in torch's allocator during the batch
``gpuexec.gpu<i>.process_used_bytes``     NVML's entry for the process after the batch
``gpuexec.gpu<i>.process_peak_bytes``     peak of NVML's entry during the batch (sampled every 50 ms)
``gpuexec.gpu<i>.memory_source.<s>``      1.0 for the source ``s`` used: torch, nvml_process, absent
``gpuexec.gpu<i>.memory_absent.<why>``    1.0 for the reason why there is no reading: a `MemoryAbsence`
========================================  ==========================================================

``<i>`` is the GPU's NVML index. A metric that could not be read has no key at all; it is never 0. The memory
metrics are levels: combining two batches keeps the larger value. Curator's own ``StagePerfStats.__add__`` sums
every custom metric; to get peaks, apply ``max`` to its per-batch arrays (``TaskPerfUtils.collect_stage_metrics``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum

INPUT_BYTES = "gpuexec.input_bytes"
OOM_SPLITS = "gpuexec.oom_splits"
TORCH_ALLOCATED = "torch_allocated_bytes"
TORCH_RESERVED = "torch_reserved_bytes"
TORCH_PEAK = "torch_peak_bytes"
PROCESS_USED = "process_used_bytes"
PROCESS_PEAK = "process_peak_bytes"

MAX_NAMES = 1000  # of a stage's own metrics in a report: a name made of a task's id would make it grow without end

_OWN_PREFIX = "gpuexec."
_PEAK_SUFFIX = "_peak_bytes"
_PEAK_KEY = re.compile(r"gpuexec\.gpu(\d+)\.(\w+_peak_bytes)")
_LEVELS = (TORCH_ALLOCATED, TORCH_RESERVED, PROCESS_USED)


class MemoryAbsence(StrEnum):
    """Why there is no reading of a process's memory on a GPU. The values are the last part of a metric's key."""

    PID_NAMESPACE = "pid_namespace"  # NVML reports pids of another namespace, as in a container
    MIG = "mig"  # NVML does not attribute memory of MIG slices to processes
    NVML_UNAVAILABLE = "nvml_unavailable"  # there is no usable driver
    NVML_HANGS = "nvml_hangs"  # a call into the driver library does not return
    NOT_SAMPLED = "not_sampled"  # no batch has been sampled yet
    NOT_LISTED = "not_listed_by_nvml"  # the process has no CUDA context, or pids are hidden
    LISTED_WITHOUT_SIZE = "listed_without_size"  # NVML lists the process, but not its memory (as under WSL)
    DEVICE_NOT_FOUND = "device_not_found"  # NVML does not find the GPU by its UUID, e.g. since it is lost
    LIST_UNREADABLE = "list_unreadable"  # NVML does not return the GPU's processes, e.g. since it is lost


def gpu_key(index: int, name: str) -> str:
    """Return the key of a metric of the GPU with this NVML index."""
    return f"gpuexec.gpu{index}.{name}"


def is_own(key: str) -> bool:
    """Return whether a metric is the executor's, and not the stage's."""
    return key.startswith(_OWN_PREFIX)


def merge_metrics(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """Combine the metrics of two batches: return sums, and the larger value of memory levels."""
    merged = dict(a)
    add_metrics(merged, b)
    return merged


def add_metrics(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add a batch's metrics to ``total`` in place, as `merge_metrics` does."""
    for key, value in more.items():
        if key not in total:
            total[key] = value
        elif _is_level(key):
            total[key] = max(total[key], value)
        else:
            total[key] += value


def gpu_peaks(metrics: Mapping[str, float]) -> list[tuple[int, str, float]]:
    """Return (NVML index, metric's name, bytes) of every peak, sorted by GPU and name."""
    matches = ((_PEAK_KEY.fullmatch(key), value) for key, value in metrics.items() if math.isfinite(value))
    return sorted((int(match[1]), match[2], value) for match, value in matches if match)


def _is_level(key: str) -> bool:
    if key is INPUT_BYTES:
        return False
    if key.endswith(_PEAK_SUFFIX):
        return True
    return key.startswith("gpuexec.gpu") and key.endswith(_LEVELS)
