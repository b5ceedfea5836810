"""What one worker of a stage asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gpuexec.errors import ConfigurationError


@dataclass
class Resources:
    """CPUs and GPUs of one worker of a stage.

    ``gpus``: a number of whole GPUs, or a fraction below 1 (exact to the thousandth). ``gpu_memory_gb``: GiB on one
    GPU. No GPU is read here: the request is compared with the size of the real GPU when the pipeline is planned.
    Only one of the two may be given. Raises ``ConfigurationError`` (a ``ValueError``).
    """

    cpus: float = 1.0
    gpu_memory_gb: float = 0.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ConfigurationError(f"Resources({each.name}={value!r}): it must be a finite number >= 0")
        if self.gpus > 0 and self.gpu_memory_gb > 0:
            raise ConfigurationError(
                f"Resources(gpus={self.gpus:g}, gpu_memory_gb={self.gpu_memory_gb:g}): give only one, "
                "gpu_memory_gb for a part of one GPU or gpus for whole GPUs"
            )

    @property
    def requires_gpu(self) -> bool:
        """Whether a worker needs a GPU."""
        return self.gpus > 0 or self.gpu_memory_gb > 0
