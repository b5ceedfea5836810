"""Turns what is given as the value of an option into the value, or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.exception_names import exception_named, problem_with_exception_name
from gpuexec.naming import full_name

_TYPE_NAMES = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "text"}


def checked_value(option: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value that ``option``, a field of the executors' options, gets from what was given.

    Raises ``ConfigurationError`` for a value of the wrong type, or one that the option's own check refuses.
    """
    declared = option.type if isinstance(option.type, str) else option.type.__name__
    kind, _, optional = declared.partition(" | ")
    if value is None and optional:
        return None
    if kind.startswith("tuple"):
        return _class_names(option.name, value)
    if kind == "str" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not _has_type(value, kind):
        expected = _TYPE_NAMES.get(kind, "a mapping")
        raise ConfigurationError(f"option {option.name!r} must be {expected}, got {type(value).__name__} {value!r}")
    if isinstance(value, int) and not _fits_float(value):
        raise ConfigurationError(f"option {option.name!r} is too large a number, of {value.bit_length():,} bits")
    check = option.metadata["check"]
    problem = check(value) if check else None
    if problem:
        raise ConfigurationError(f"option {option.name!r} {problem}, got {value!r}")
    if option.name == "log_level":
        return value.upper()
    return float(value) if kind == "float" else value


def _class_names(option: str, value: Any) -> tuple[str, ...]:
    """Return the names of exceptions, which are given as classes or names, one or several."""
    exceptions = value if isinstance(value, list | tuple | set | frozenset) else [value]
    names = []
    for exception in exceptions:
        if isinstance(exception, type) and issubclass(exception, BaseException):
            names.append(full_name(exception))
        elif isinstance(exception, str) and exception:
            names.append(_exception_name(option, exception))
        else:
            raise ConfigurationError(
                f"option {option!r} takes exception classes or their names, such as 'ConnectionError', "
                f"got {exception!r}"
            )
    return tuple(names)


def _exception_name(option: str, name: str) -> str:
    """Return the name by which exceptions of this class are recognised: its own one, where ``name`` is an alias of it.

    Raises ``ConfigurationError`` for a name that no exception can have. Nothing is imported for it, so a class in a
    module that is not loaded yet is believed.
    """
    found = exception_named(name)
    if found is not None:
        own = found.__name__ if "." not in name else full_name(found)
        return name if own == name else own
    problem = problem_with_exception_name(name)
    if problem is None:
        return name
    raise ConfigurationError(f"option {option!r}: {problem}")


def _fits_float(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _has_type(value: Any, expected: str) -> bool:
    if expected == "bool":
        return isinstance(value, bool)
    if expected == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected == "str":
        return isinstance(value, str)
    return isinstance(value, Mapping)
