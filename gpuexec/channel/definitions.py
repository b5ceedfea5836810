"""Classes that another process cannot import: of a script or notebook, made in a function, or registered as by value.

cloudpickle can send them, but works through an object in Python and sends its class anew every time. Here the object is
pickled by the plain pickler, and its class by a token and its definition, which is pickled once a sender and unpickled
once a receiver. The token is cloudpickle's own, so a class has one identity however it reached a process.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import weakref
from collections import ChainMap
from types import CodeType, FunctionType
from typing import Any, ClassVar

from gpuexec.channel import by_value

_CLASSES: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()  # by token


class NotNameable(pickle.PicklingError):
    """An object contains a function that must be pickled by value: cloudpickle has to pickle all of it."""


class Definitions:
    """The classes that one sender has sent, as they were when it first did."""

    def __init__(self) -> None:
        self._reduced: dict[type, Any] = {}  # NotImplemented for classes that can be imported
        self._importable: dict[FunctionType, None] = {}  # in the order in which they were met
        self._named_in_definitions: dict[str, None] = {}  # modules

    @property
    def modules(self) -> list[str]:
        """The modules that a receiver imports for what was pickled, in about the order in which it does."""
        named: list[Any] = [cls for cls, reduced in self._reduced.items() if reduced is NotImplemented]
        return list(
            dict.fromkeys([*(obj.__module__ for obj in [*named, *self._importable]), *self._named_in_definitions])
        )

    def of_class(self, cls: type) -> Any:
        """Return how to pickle a class: by its definition, or pickle's own way."""
        reduced = self._reduced.get(cls)
        if reduced is None:
            importable = _is_importable(cls)
            reduced = NotImplemented if importable else _define(cls, self._named_in_definitions)
            self._reduced[cls] = reduced
        return reduced

    def of_function(self, function: FunctionType) -> Any:
        """Pickle a function pickle's own way. Raises `NotNameable` if it cannot be imported: it may hold data."""
        if function not in self._importable:
            if not _is_importable(function):
                raise NotNameable(f"{function.__qualname__} cannot be imported in another process")
            self._importable[function] = None
        return NotImplemented


class NamingPickler(pickle.Pickler):
    """The plain pickler, asked about every class and function. ``definitions`` is set after it is made."""

    definitions: Definitions

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle a class; called for every object that is not of a basic type."""
        if isinstance(obj, type):
            return self.definitions.of_class(obj)
        if isinstance(obj, FunctionType):
            return self.definitions.of_function(obj)
        return NotImplemented


def _is_importable(obj: type | FunctionType) -> bool:
    if obj in _BUILTIN_SINGLETONS:
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    if _is_in_its_module(obj) and (cloudpickle is None or not cloudpickle.list_registry_pickle_by_value()):
        return True
    from cloudpickle import cloudpickle as rules

    return bool(rules._should_pickle_by_reference(obj))


def _is_in_its_module(obj: type | FunctionType) -> bool:
    """Return whether pickle's own way finds it in another process too. Most objects need no other check."""
    if obj.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


_BUILTIN_SINGLETONS = (type(None), type(NotImplemented), type(...))  # pickle has opcodes of its own for them


def _define(cls: type, modules: dict[str, None]) -> tuple[Any, ...]:
    """Return how to pickle a class by its definition, and add the ``modules`` that this names."""
    from cloudpickle import cloudpickle

    token: str = cloudpickle._get_or_create_tracker_id(cls)
    _CLASSES[token] = cls
    sink = io.BytesIO()
    pickler = _definition_pickler()(sink, protocol=5)
    pickler.modules = modules
    pickler.dump(cls)
    return restore_class, (token, sink.getvalue())


@functools.cache
def _definition_pickler() -> Any:
    import cloudpickle

    class DefinitionPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no type information
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: by_value.reduce_code, **by_value.logger_reducers()}, cloudpickle.Pickler.dispatch_table
        )
        reducer_override = by_value.noting_modules(cloudpickle.Pickler.reducer_override)

    return DefinitionPickler


def restore_class(token: str, definition: bytes) -> type:
    """Return the class with this token, or make it. Pickles in capsules refer to this function by its name."""
    cls = _CLASSES.get(token)
    if cls is None:
        cls = _CLASSES[token] = pickle.loads(definition)
    return cls
