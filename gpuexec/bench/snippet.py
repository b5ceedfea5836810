"""The settings of a point as Python text. Pure.

Each line can be pasted where the pipeline is built. Variables are named after their stages.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from gpuexec.bench.labels import differs_from_today
from gpuexec.bench.model import Point, Sweep
from gpuexec.bench.space import changes_of

_RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_OTHER_REQUEST = {"gpus": "gpu_memory_gb", "gpu_memory_gb": "gpus"}  # a stage may make only one of the two


def snippet(sweep: Sweep, point: Point) -> str:
    """Return the lines that make today's configuration that of the point; nothing if it is that already."""
    changes = changes_of(
        {name: value for name, value in point.settings.items() if differs_from_today(sweep, name, value)}
    )
    lines = [line for stage, settings in changes.stages.items() for line in _stage_lines(stage, settings)]
    if any(key in _RESOURCES for settings in changes.stages.values() for key in settings):
        lines.insert(0, "from dataclasses import replace")
    if changes.options:
        lines.append(f"executor = LocalExecutor({_keywords(changes.options)})")
    if changes.arguments:
        function = _variable(sweep.target.rpartition(":")[2])
        lines.append(f"{function}({_keywords({**sweep.fixed, **changes.arguments})})")
    return "\n".join(lines)


def _stage_lines(stage: str, settings: Mapping[str, Any]) -> list[str]:
    variable = _variable(stage)
    plain = {key: value for key, value in settings.items() if key not in _RESOURCES}
    resources = {key: value for key, value in settings.items() if key in _RESOURCES}
    for key in list(resources):
        if resources[key] and key in _OTHER_REQUEST:
            resources.setdefault(_OTHER_REQUEST[key], 0)
    texts = [_keywords(plain)] if plain else []
    if resources:
        texts.append(f"resources=replace({variable}.resources, {_keywords(resources)})")
    comment = [] if variable == stage else [f"# the stage {stage!r}"]
    return [*comment, f"{variable} = {variable}.with_({', '.join(texts)})"]


def _keywords(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def _variable(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "stage"
    if found[0].isdigit() or keyword.iskeyword(found):
        found = f"stage_{found}"
    return found
