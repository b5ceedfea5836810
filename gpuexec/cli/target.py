"""Finds what ``MODULE_OR_FILE:OBJECT`` names: a pipeline, or a function that returns one."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuexec.errors import ConfigurationError


def load_pipeline(target: str, settings: Mapping[str, Any]) -> Any:
    """Import the target and return its pipeline; ``settings`` become the function's keyword arguments.

    Raises ``ConfigurationError`` that says which part of the target is wrong. Errors inside the module
    pass through as they are.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ConfigurationError(f"target {target!r} must be MODULE:OBJECT or FILE.py:OBJECT")
    module = _load_file(Path(place)) if place.endswith(".py") or "/" in place else _load_module(place)
    try:
        found = getattr(module, name)
    except AttributeError:
        raise ConfigurationError(f"{place} has no {name!r}{_nearest(name, vars(module))}") from None
    pipeline = _call(found, name, settings) if callable(found) and not _is_pipeline(found) else found
    if not _is_pipeline(pipeline):
        raise ConfigurationError(
            f"{target} gives a {type(pipeline).__name__}, not a Pipeline (it must have build() and stages)"
        )
    if pipeline is found and settings:
        raise ConfigurationError(f"{target} is a Pipeline, not a function: --set has nothing to set")
    return pipeline


def parse_settings(settings: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Turn ``key=value`` into a dict; a value that is a Python literal is taken as one, else as text."""
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(f"{option} {setting!r} must be KEY=VALUE")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = value
    return parsed


def _is_pipeline(found: Any) -> bool:
    return not isinstance(found, type) and hasattr(found, "build") and hasattr(found, "stages")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {str(path)!r}")
    if not path.stem.isidentifier():
        raise ConfigurationError(f"{path} cannot be imported: its name must be a Python name, such as pipeline.py")
    # By its plain name, so that workers, which get this sys.path, can import the same module.
    sys.path.insert(0, str(path.parent.resolve()))
    module = importlib.import_module(path.stem)
    if module.__file__ is None or not path.samefile(module.__file__):
        raise ConfigurationError(f"{path} cannot be imported: the module {path.stem!r} is another one; rename the file")
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"there is no module {name!r} (looked from {Path.cwd()})") from None
        raise


def _call(function: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in settings:
        if key not in parameters and not takes_any:
            raise ConfigurationError(f"{name}() has no parameter {key!r}{_nearest(key, parameters)}")
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settings
    ]
    if missing:
        raise ConfigurationError(f"{name}() needs {', '.join(missing)}: give --set {missing[0]}=…")
    return function(**settings)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
