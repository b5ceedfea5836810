"""Loads the pipeline that ``MODULE_OR_FILE:OBJECT`` names, or that the function of that name returns."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.executors.values import guessed_value, read_value


def load_pipeline(target: str, settings: Mapping[str, Any]) -> Any:
    """Import the target and return its pipeline; ``settings`` become the function's keyword arguments.

    Texts are read as the types that the function declares, or that its defaults have; other values are passed as they
    are.

    Raises ``ConfigurationError``, which says which part of the target is wrong. Errors that the module or the function
    raises pass through unchanged.
    """
    return pipeline_of(load_target(target), target, settings)


def load_target(target: str) -> Any:
    """Import what ``MODULE_OR_FILE:OBJECT`` names: a pipeline, or a function that returns one.

    Raises ``ConfigurationError`` if it cannot be found. Errors that the module raises pass through unchanged.
    """
    module_or_file, _, name = target.rpartition(":")
    if not module_or_file or not name:
        raise ConfigurationError(f"target {target!r} must be MODULE:OBJECT or FILE.py:OBJECT")
    is_file = module_or_file.endswith(".py") or "/" in module_or_file
    module = _load_file(Path(module_or_file)) if is_file else _load_module(module_or_file)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigurationError(f"{module_or_file} has no {name!r}{_suggestion(name, vars(module))}") from None


def pipeline_of(value: Any, target: str, settings: Mapping[str, Any]) -> Any:
    """Return the pipeline that ``value`` is, or that it returns if it is a function. ``target``: its name for errors.

    Raises what `load_pipeline` raises.
    """
    if is_pipeline(value):
        if settings:
            raise ConfigurationError(f"{target} is a Pipeline, not a function, so --set has no effect: leave it out")
        return value
    name = target.rpartition(":")[2]
    pipeline = value(**read_arguments(value, name, settings)) if callable(value) else value
    if not is_pipeline(pipeline):
        verb = "returned" if callable(value) else "is"
        raise ConfigurationError(
            f"{target} {verb} an object of type {type(pipeline).__name__}, not a Pipeline (with build() and stages)"
        )
    return pipeline


def is_pipeline(value: Any) -> bool:
    """Return whether a value is a pipeline, of any library."""
    return not isinstance(value, type) and hasattr(value, "build") and hasattr(value, "stages")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {str(path)!r}")
    if not path.stem.isidentifier():
        raise ConfigurationError(f"{path} cannot be imported: its name must be a Python identifier, as in pipeline.py")
    # Import it by its plain name: workers get this sys.path and import the same module.
    _search_first(path.parent.resolve())
    module = importlib.import_module(path.stem)
    if module.__file__ is None or not path.samefile(module.__file__):
        raise ConfigurationError(f"{path} cannot be imported: another module is called {path.stem!r}; rename the file")
    return module


def _load_module(name: str) -> ModuleType:
    _search_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"there is no module {name!r} (searched sys.path and {Path.cwd()})") from None
        raise


def _search_first(folder: Path) -> None:
    """Put a folder first on the search path, but for the standard library.

    A file of the folder may be called like a standard module, which this process or a worker imports only later.
    """
    library = Path(os.__file__).parent
    folders = {
        library,
        library / "lib-dynload",
        library.parent / f"python{sys.version_info[0]}{sys.version_info[1]}.zip",
    }
    standard = [entry for entry in sys.path if isinstance(entry, str) and Path(entry) in folders]
    sys.path[:] = [*standard, str(folder), *(entry for entry in sys.path if entry not in standard)]


def read_arguments(function: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a function's arguments, texts read as the types that it declares.

    Raises ``ConfigurationError`` for arguments that it does not have, and for required ones that are missing.
    """
    parameters = inspect.signature(function).parameters
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in settings:
        if key not in parameters and not accepts_any:
            raise ConfigurationError(f"{name}() has no parameter {key!r}{_suggestion(key, parameters)}")
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settings
    ]
    if missing:
        raise ConfigurationError(f"{name}() requires {', '.join(missing)}: add --set {missing[0]}=…")
    kinds = {key: kind_of(parameters[key]) for key in settings if key in parameters}
    return {key: _read(key, value, kinds.get(key)) for key, value in settings.items()}


def _read(key: str, value: Any, kind: str | None) -> Any:
    if not isinstance(value, str):
        return value
    return read_value(value, kind, where=f"--set {key}={value!r}: it") if kind else guessed_value(value)


def kind_of(parameter: inspect.Parameter) -> str:
    """Return the type of a parameter as its annotation or its default tells it, "" if neither does."""
    annotation = parameter.annotation
    if annotation is not parameter.empty:
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        text = re.sub(r"\b\w+\.", "", text)
        return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)
    default = parameter.default
    if default is parameter.empty or default is None:
        return ""
    name = type(default).__name__
    return "int | float" if name == "int" else name


def _suggestion(name: str, known: Mapping[str, Any]) -> str:
    matches = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
