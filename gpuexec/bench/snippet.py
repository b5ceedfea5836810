"""The settings of a point as Python text. Pure.

Each line can be pasted where the pipeline is built. Names of variables are made of the stages' names.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from gpuexec.bench.model import Point, Sweep

_RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_GPU_KINDS = {"gpus": "gpu_memory_gb", "gpu_memory_gb": "gpus"}  # only one of the two may be given
_OPTION, _ARGUMENT = "option", "set"


def snippet(sweep: Sweep, point: Point) -> str:
    """Return the lines that make today's configuration that of the point; nothing if it is that already."""
    changed = {
        name: value for name, value in point.settings.items() if name not in sweep.today or sweep.today[name] != value
    }
    by_owner: dict[str, dict[str, Any]] = {}
    for name, value in changed.items():
        owner, _, key = name.rpartition(".")
        by_owner.setdefault(owner, {})[key] = value
    options, arguments = by_owner.pop(_OPTION, {}), by_owner.pop(_ARGUMENT, {})
    lines = [line for stage, settings in by_owner.items() for line in _stage_lines(stage, settings)]
    if any(key in _RESOURCES for settings in by_owner.values() for key in settings):
        lines.insert(0, "from dataclasses import replace")
    if options:
        lines.append(f"executor = LocalExecutor({_keywords(options)})")
    if arguments:
        target = sweep.target.rpartition(":")[2]
        lines.append(f"{_variable(target)}({_keywords({**sweep.fixed, **arguments})})")
    return "\n".join(lines)


def _stage_lines(stage: str, settings: Mapping[str, Any]) -> list[str]:
    variable = _variable(stage)
    plain = {key: value for key, value in settings.items() if key not in _RESOURCES}
    resources = {key: value for key, value in settings.items() if key in _RESOURCES}
    for key in list(resources):
        if resources[key] and key in _GPU_KINDS:
            resources.setdefault(_GPU_KINDS[key], 0)
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
