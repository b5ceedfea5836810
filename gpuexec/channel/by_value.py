"""Pickle reducers for what a stage of a script or notebook refers to, beside its classes and functions.

* Code keeps the name of its file, which cloudpickle drops, so that tracebacks and debuggers can name it. If the file is
  not one on the disk, such as a cell of a notebook, its source travels along.
* A logger arrives as the receiver's own: as the one of that name for the standard library's, and for loguru as the one
  logger, with what was bound to it. Its handlers, with their locks and open files, stay where they are.
* A class with ``__slots__`` has them again where it arrives. cloudpickle restores it with a ``__dict__`` instead, and
  its instances then do not fit the class they came from (cloudpickle#225, cloudpickle#311).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any

_DROPPED = "<dynamic-code>"  # what cloudpickle puts in the place of the file's name

_noted: dict[str, None] | None = None  # modules, while somebody wants to know them

_sources: dict[str, tuple[Any, str]] = {}  # one text per file, so that it is in a pickle once


@contextlib.contextmanager
def modules_noted() -> Iterator[dict[str, None]]:
    """Collect the modules that are named in what is pickled by value in the block, in order."""
    global _noted  # noqa: PLW0603 - it describes the block
    outer, _noted = _noted, {}
    try:
        yield _noted
    finally:
        _noted = outer


def note_module(obj: Any) -> None:
    """Note the module that a receiver will import for an object, if it will."""
    if _noted is None:
        return
    from cloudpickle import cloudpickle

    if isinstance(obj, BuiltinFunctionType):
        if obj.__module__:
            _noted[obj.__module__] = None
    elif isinstance(obj, type | FunctionType | ModuleType) and cloudpickle._should_pickle_by_reference(obj):
        _noted[obj.__name__ if isinstance(obj, ModuleType) else obj.__module__] = None


def reduce_code(code: CodeType) -> tuple[Any, ...]:
    """Reduce code as cloudpickle does, with its file's name and, if need be, its source."""
    from cloudpickle import cloudpickle

    make, parts = cloudpickle._code_reduce(code)
    filename = code.co_filename
    parts = tuple(filename if type(part) is str and part == _DROPPED else part for part in parts)
    source = _source_of(filename)
    return (make, parts) if source is None else (make_code, (make, parts, filename, source))


def make_code(make: Callable[..., CodeType], parts: tuple[Any, ...], filename: str, source: str) -> CodeType:
    """Restore code, and make its source known to tracebacks and debuggers."""
    import linecache

    if filename not in linecache.cache:
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return make(*parts)


def _source_of(filename: str) -> str | None:
    """Return the source of a file that is not on the disk, if this process has it."""
    import linecache
    from pathlib import Path

    if Path(filename).exists():
        return None
    lines = linecache.getlines(filename)
    known = _sources.get(filename)
    if lines and (known is None or known[0] is not lines):
        known = _sources[filename] = (lines, "".join(lines))
    return known[1] if lines and known is not None else None


def with_slots(cls: type, reduced: Any) -> Any:
    """Return how cloudpickle reduces a class, with the layout of its instances if ``__slots__`` gave them one."""
    if reduced is NotImplemented or "__slots__" not in vars(cls):
        return reduced
    if reduced[1][0] is not type(cls) or cls.__itemsize__:  # an enum, or a kind of tuple: those hold no slots
        return reduced
    own = {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, MemberDescriptorType | GetSetDescriptorType) and value.__objclass__ is cls
    }
    make, (metaclass, name, bases, begins_with, *others), (attributes, more), *rest = reduced
    begins_with = {**begins_with, "__slots__": tuple(own)}
    attributes = {name: value for name, value in attributes.items() if name not in own and name != "__slotnames__"}
    return (make, (metaclass, name, bases, begins_with, *others), (attributes, more), *rest)


def logger_reducers() -> dict[type, Callable[[Any], Any]]:
    """Return the reducers for loggers of the libraries that are loaded."""
    reducers: dict[type, Callable[[Any], Any]] = {}
    if (loguru := sys.modules.get("loguru")) is not None and (logger := getattr(loguru, "logger", None)) is not None:
        reducers[type(logger)] = _reduce_loguru
    if (logger_class := getattr(sys.modules.get("logging"), "Logger", None)) is not None:
        reducers[logger_class] = lambda logger: (_named_logger, (logger.name,))
    return reducers


def _named_logger(name: str) -> Any:
    import logging

    return logging.getLogger(name)


def _reduce_loguru(logger: Any) -> tuple[Any, ...]:
    return _own_loguru, (logger._options,)


def _own_loguru(options: tuple[Any, ...]) -> Any:
    from loguru import logger

    return type(logger)(logger._core, *options)  # type: ignore[attr-defined,call-arg]
