"""Settings of stages and of the executor as Python text. Pure.

Each line can be pasted where the pipeline is built. Variables are named after their stages.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from gpuexec.config import ExecutorConfig

_STAGE_OPTIONS = {option.name for option in fields(ExecutorConfig) if option.metadata["per_stage"]}
_RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_OTHER_REQUEST = {"gpus": "gpu_memory_gb", "gpu_memory_gb": "gpus"}  # a stage may make only one of the two

Settings = Mapping[str, Any]


def snippet_lines(
    stages: Mapping[str, Settings], options: Settings, anew: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Return the lines that give stages, by their names, and the executor these settings.

    ``anew``: fields of a stage's dataclass, by the stage's name, for which it is made anew.
    """
    options, lines = dict(options), []
    of_stages: dict[str, dict[str, Any]] = {}
    for stage, settings in stages.items():
        own = {key: value for key, value in settings.items() if key not in _STAGE_OPTIONS}
        if own:
            lines += _stage_lines(stage, own, (anew or {}).get(stage, ()))
        if len(own) < len(settings):
            of_stages[stage] = {key: value for key, value in settings.items() if key not in own}
    if any("replace(" in line for line in lines):
        lines.insert(0, "from dataclasses import replace")
    if of_stages:
        options["stage_options"] = of_stages  # stages of NeMo Curator take them nowhere else
    if options:
        lines.append(f"executor = LocalExecutor({keywords(options)})")
    return lines


def keywords(settings: Settings) -> str:
    """Return settings as the arguments of a call."""
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def variable_of(name: str) -> str:
    """Return the name of a variable for what is called so."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "stage"
    if found[0].isdigit() or keyword.iskeyword(found):
        found = f"stage_{found}"
    return found


def _stage_lines(stage: str, settings: Settings, of_dataclass: Collection[str]) -> list[str]:
    variable = variable_of(stage)
    anew = {key: value for key, value in settings.items() if key in of_dataclass}
    plain = {key: value for key, value in settings.items() if key not in _RESOURCES and key not in anew}
    resources = {key: value for key, value in settings.items() if key in _RESOURCES}
    for key in list(resources):
        if resources[key] and key in _OTHER_REQUEST:
            resources.setdefault(_OTHER_REQUEST[key], 0)
    texts = [keywords(plain)] if plain else []
    if resources:
        texts.append(f"resources=replace({variable}.resources, {keywords(resources)})")
    lines = [] if variable == stage else [f"# the stage {stage!r}"]
    if anew:
        lines.append(f"{variable} = replace({variable}, {keywords(anew)})")
    if texts:
        lines.append(f"{variable} = {variable}.with_({', '.join(texts)})")
    return lines
