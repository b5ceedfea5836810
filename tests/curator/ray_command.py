"""Ray as the oracle: whether it is asked, and where its command is, which Curator's RayClient looks for in PATH."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

asks_ray = pytest.mark.skipif(
    os.environ.get("GPUEXEC_RAY_ORACLE") == "0", reason="GPUEXEC_RAY_ORACLE=0: Ray Data is not asked"
)


def path_with_ray(environ: Mapping[str, str]) -> str:
    """Return a PATH in which the command is found: an environment that lies upon another has it there."""
    installed = importlib.metadata.distribution("ray").files or []
    commands = [Path(str(file.locate())).resolve().parent for file in installed if file.parts[-2:] == ("bin", "ray")]
    return os.pathsep.join((*map(str, commands), environ["PATH"]))
