"""Reads the ``KEY=VALUE`` options of commands that take a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError
from gpuexec.executors.values import read_value


def parse_settings(settings: Sequence[str], option: str = "--set") -> dict[str, str]:
    """Return the dict of ``key=value`` settings, the values as they were written.

    ``option`` names the command-line option in the ``ConfigurationError`` of a malformed setting.
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(f"{option} {setting!r} must be KEY=VALUE")
        parsed[key] = value
    return parsed


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the executor options that ``key=value`` texts stand for, each read as the option's type.

    A key ``stage.name`` stands for an option of one stage, as in ``stage_options``.
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(ExecutorConfig)}
    values: dict[str, Any] = {}
    of_stages: dict[str, dict[str, Any]] = {}
    for option in options:
        stage, dot, _ = option.partition("=")[0].rpartition(".")
        for name, text in parse_settings([option.removeprefix(f"{stage}.") if dot else option], "--option").items():
            where = f"--option {stage}{dot}{name}={text!r}: it"
            # A name that is not known is refused where the executor is created, with the closest one.
            value = read_value(text, kinds[name], where=where) if name in kinds else text
            (of_stages.setdefault(stage, {}) if dot else values)[name] = value
    if of_stages:
        values["stage_options"] = {**(values.get("stage_options") or {}), **of_stages}
    return values
