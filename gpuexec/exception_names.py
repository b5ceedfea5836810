"""Exceptions by name, as options give them: which class a name stands for, and whether any class can have it."""

from __future__ import annotations

import builtins
import difflib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from gpuexec.naming import full_name

_CUTOFF = 0.6  # of difflib: how alike a name must be to be suggested


def exception_named(name: str) -> type[BaseException] | None:
    """Return the class that a name stands for, in this process as it is now; ``None`` if it is not known here.

    ``name``: a built-in exception, or any other in full. A bare name of any other class may be that of several.
    """
    found = _look_up(name) if "." in name else getattr(builtins, name, None)
    return found if _is_exception(found) else None


def problem_with_exception_name(name: str) -> str | None:
    """Return why no exception can have this name, with the nearest that one has; ``None`` if one may have it."""
    parts = name.split(".")
    if "<locals>" in parts:
        return None  # a class that a function makes is found nowhere
    if not all(part.isidentifier() for part in parts):
        return f"{name!r} is not the name of a class" + _hint(name, _known_names())
    if len(parts) == 1:
        if hasattr(builtins, name):
            return f"{name!r} is not an exception" + _hint(name, _known_names())
        if name in _known_names():
            return None
        return (
            f"no exception that is loaded is called {name!r}{_hint(name, _known_names())} (for one that is loaded "
            "later, give the class or its full name, such as 'torch.OutOfMemoryError')"
        )
    return _problem_in_module(name, parts)


def _problem_in_module(name: str, parts: list[str]) -> str | None:
    module_name = _loaded_module_of(parts)
    if module_name is None or module_name == "__main__":  # not loaded yet, or the script has not come to it
        return None
    rest = parts[module_name.count(".") + 1 :]
    owner: Any = sys.modules[module_name]
    for depth, part in enumerate(rest):
        inner = getattr(owner, part, None)
        if inner is None:
            if depth == 0 and len(rest) > 1 and _may_be_module(f"{module_name}.{part}"):
                return None
            where = ".".join([module_name, *rest[:depth]])
            return f"{where} has no exception {part!r}" + _hint(name, _exceptions_in(owner, where))
        owner = inner
    return f"{name!r} is not an exception" + _hint(name, _exceptions_in(sys.modules[module_name], module_name))


def _look_up(name: str) -> Any:
    parts = name.split(".")
    module_name = _loaded_module_of(parts)
    if module_name is None:
        return None
    found: Any = sys.modules[module_name]
    for part in parts[module_name.count(".") + 1 :]:
        found = getattr(found, part, None)
    return found


def _loaded_module_of(parts: list[str]) -> str | None:
    """Return the longest beginning of a dotted name that is a module and loaded."""
    prefixes = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((prefix for prefix in prefixes if sys.modules.get(prefix) is not None), None)


def _may_be_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _exceptions_in(owner: object, prefix: str) -> list[str]:
    return [f"{prefix}.{name}" for name, value in getattr(owner, "__dict__", {}).items() if _is_exception(value)]


def _known_names() -> set[str]:
    """Return the bare names of all exceptions that are loaded, and their aliases among the built-in names."""
    names = {name for name, value in vars(builtins).items() if _is_exception(value)}
    waiting: list[type] = [BaseException]
    seen: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            names.add(full_name(cls).rpartition(".")[2])
            waiting += type.__subclasses__(cls)
    return names


def _hint(name: str, known: Iterable[str]) -> str:
    candidates = sorted(known)
    closest = difflib.get_close_matches(name, candidates, n=1, cutoff=_CUTOFF)
    return f"; did you mean {closest[0]!r}?" if closest else ""
