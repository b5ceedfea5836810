"""The settings of a point as Python text. Pure.

Each line can be pasted where the pipeline is built. Variables are named after their stages.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from gpuexec.bench.labels import differs_from_today
from gpuexec.bench.model import Point, Sweep
from gpuexec.bench.space import changes_of
from gpuexec.config import ExecutorConfig

_STAGE_OPTIONS = {option.name for option in fields(ExecutorConfig) if option.metadata["per_stage"]}
_RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_OTHER_REQUEST = {"gpus": "gpu_memory_gb", "gpu_memory_gb": "gpus"}  # a stage may make only one of the two


def snippet(sweep: Sweep, point: Point) -> str:
    """Return the lines that make today's configuration that of the point; nothing if it is that already."""
    changes = changes_of(
        {name: value for name, value in point.settings.items() if differs_from_today(sweep, name, value)}
    )
    anew = changes_of(dict.fromkeys(sweep.fields)).stages
    options, lines = dict(changes.options), []
    of_stages: dict[str, dict[str, Any]] = {}
    for stage, settings in changes.stages.items():
        own = {key: value for key, value in settings.items() if key not in _STAGE_OPTIONS}
        if own:
            lines += _stage_lines(stage, own, anew.get(stage, {}))
        if len(own) < len(settings):
            of_stages[stage] = {key: value for key, value in settings.items() if key not in own}
    if any("replace(" in line for line in lines):
        lines.insert(0, "from dataclasses import replace")
    if of_stages:
        options["stage_options"] = of_stages  # stages of NeMo Curator take them nowhere else
    if options:
        lines.append(f"executor = LocalExecutor({_keywords(options)})")
    if changes.arguments:
        function = _variable(sweep.target.rpartition(":")[2])
        lines.append(f"{function}({_keywords({**sweep.fixed, **changes.arguments})})")
    return "\n".join(lines)


def _stage_lines(stage: str, settings: Mapping[str, Any], fields: Collection[str]) -> list[str]:
    """Return the lines that change one stage. ``fields``: of its dataclass, for which it is made anew."""
    variable = _variable(stage)
    anew = {key: value for key, value in settings.items() if key in fields}
    plain = {key: value for key, value in settings.items() if key not in _RESOURCES and key not in anew}
    resources = {key: value for key, value in settings.items() if key in _RESOURCES}
    for key in list(resources):
        if resources[key] and key in _OTHER_REQUEST:
            resources.setdefault(_OTHER_REQUEST[key], 0)
    texts = [_keywords(plain)] if plain else []
    if resources:
        texts.append(f"resources=replace({variable}.resources, {_keywords(resources)})")
    lines = [] if variable == stage else [f"# the stage {stage!r}"]
    if anew:
        lines.append(f"{variable} = replace({variable}, {_keywords(anew)})")
    if texts:
        lines.append(f"{variable} = {variable}.with_({', '.join(texts)})")
    return lines


def _keywords(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def _variable(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "stage"
    if found[0].isdigit() or keyword.iskeyword(found):
        found = f"stage_{found}"
    return found
