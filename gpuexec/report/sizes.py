"""How much GPU memory to ask for, given what was used."""

from __future__ import annotations

import math

from gpuexec.units import GIB

_HEADROOM = 1.05  # allocators round up, and the next run's largest batch may be a little larger


def suggested_gpu_memory_gb(peak_bytes: int) -> float:
    """Return what to ask for with ``gpu_memory_gb`` (in GiB) after a peak: in halves above 2 GiB, in tenths below."""
    wanted = peak_bytes * _HEADROOM / GIB
    step = 2 if wanted > 2 else 10  # steps in one GiB
    return math.ceil(wanted * step) / step
