"""Settings of stages and of the executor as Python text. Pure.

Each line can be pasted where the pipeline is built. Variables are named after their stages.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

RESOURCES = ("cpus", "gpus", "gpu_memory_gb")
_OTHER_REQUEST = {"gpus": "gpu_memory_gb", "gpu_memory_gb": "gpus"}  # a stage may make only one of the two

Settings = Mapping[str, Any]


def snippet_lines(stages: Mapping[str, Settings], options: Settings) -> list[str]:
    """Return the lines that give stages, by their names, and the executor these settings."""
    lines = [line for stage, settings in stages.items() for line in _stage_lines(stage, settings)]
    if any(key in RESOURCES for settings in stages.values() for key in settings):
        lines.insert(0, "from dataclasses import replace")
    return [*lines, *([f"executor = LocalExecutor({keywords(options)})"] if options else [])]


def keywords(settings: Settings) -> str:
    """Return settings as the arguments of a call."""
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def variable_of(name: str) -> str:
    """Return the name of a variable for what is called so."""
    found = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "stage"
    if found[0].isdigit() or keyword.iskeyword(found):
        found = f"stage_{found}"
    return found


def _stage_lines(stage: str, settings: Settings) -> list[str]:
    variable = variable_of(stage)
    plain = {key: value for key, value in settings.items() if key not in RESOURCES}
    resources = {key: value for key, value in settings.items() if key in RESOURCES}
    for key in list(resources):
        if resources[key] and key in _OTHER_REQUEST:
            resources.setdefault(_OTHER_REQUEST[key], 0)
    texts = [keywords(plain)] if plain else []
    if resources:
        texts.append(f"resources=replace({variable}.resources, {keywords(resources)})")
    comment = [] if variable == stage else [f"# the stage {stage!r}"]
    return [*comment, f"{variable} = {variable}.with_({', '.join(texts)})"]
