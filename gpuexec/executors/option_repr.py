"""The options of an executor that differ from the defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpuexec.config import ExecutorConfig


def changed_options(options: ExecutorConfig) -> dict[str, Any]:
    """Return the options that differ from the defaults, by name."""
    values = {option.name: (getattr(options, option.name), option.default) for option in dataclasses.fields(options)}
    return {name: value for name, (value, default) in values.items() if value != default}


def executor_repr(executor: object, options: ExecutorConfig) -> str:
    """Return ``Executor(option=value, …)``. Of ``runtime_env`` only the keys are shown: its values may be secrets."""
    shown = [
        f"{name}={{{', '.join(f'{key!r}: …' for key in value)}}}" if name == "runtime_env" else f"{name}={value!r}"
        for name, value in changed_options(options).items()
    ]
    return f"{type(executor).__name__}({', '.join(shown)})"
