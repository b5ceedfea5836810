"""Runs one pipeline with different settings, and says which are best: ``gpuexec.bench(pipeline, vary={…})``.

`api.bench` says what it takes; calling this module calls it. `model` says what a sweep is. `space` and `search` decide,
without side effects, which trials there are; `runner` runs each in a process of its own (`trial`) and writes what came
of it to `journal`. `analysis` and `answer` make figures and words of the results.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """The package, which has the name of the function that users call."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gpuexec.bench.api import bench

        return bench(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
