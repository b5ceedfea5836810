"""Keeps Ray from starting itself in this process while a stage runs in it, as a variable does in workers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from gpuexec.curator.ray_actors import names_cluster
from gpuexec.stage.environment import temporary_environment

_VARIABLE = "RAY_ENABLE_AUTO_CONNECT"
_READS_IT = "ray._private.auto_init_hook"  # once, when Ray is imported


@contextlib.contextmanager
def ray_not_started() -> Iterator[None]:
    """Make Ray's API raise where it would start Ray. Nothing changes where the user has set it, or names a cluster."""
    if _VARIABLE in os.environ or names_cluster(os.environ):
        yield
        return
    with temporary_environment({_VARIABLE: "0"}):
        _set_auto_connect(enabled=False)
        try:
            yield
        finally:
            _set_auto_connect(enabled=True)


def _set_auto_connect(*, enabled: bool) -> None:
    module: Any = sys.modules.get(_READS_IT)
    if hasattr(module, "enable_auto_connect"):
        module.enable_auto_connect = enabled
