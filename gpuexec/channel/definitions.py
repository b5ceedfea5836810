"""Classes that another process cannot import: of a script or notebook, made in a function, or registered as by value.

cloudpickle can send them, but works through an object in Python and sends its class anew every time. Here the object is
pickled by the plain pickler, and its class by a token and its definition, which is pickled once a sender and unpickled
once a receiver. If the definition was announced to every receiver before, the token is enough (see `announcement`).
The token is cloudpickle's own, so a class has one identity however it reached a process.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import weakref
from collections import ChainMap
from collections.abc import Collection
from types import CodeType, FunctionType
from typing import Any, ClassVar

from gpuexec.channel import by_value

_CLASSES: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()  # by token
ANNOUNCED: dict[str, bytes] = {}  # definitions by token: what this process, a worker, was told at its start


class NotNameable(pickle.PicklingError):
    """An object contains a function that must be pickled by value: cloudpickle has to pickle all of it."""


class Definitions:
    """The classes that one sender has sent, as they were when it first did.

    ``announced``: tokens of the classes that all its receivers know already.
    """

    def __init__(self, announced: Collection[str] = ANNOUNCED) -> None:
        self._announced = announced
        self._reduced: dict[type, Any] = {}  # NotImplemented for classes that can be imported
        self._importable: dict[FunctionType, None] = {}  # in the order in which they were met

    @property
    def modules(self) -> list[str]:
        """The modules of what a receiver will import by its name."""
        classes = [cls for cls, reduced in self._reduced.items() if reduced is NotImplemented]
        return [obj.__module__ for obj in (*classes, *self._importable)]

    def of_class(self, cls: type) -> Any:
        """Return how to pickle a class: by its definition, or pickle's own way."""
        reduced = self._reduced.get(cls)
        if reduced is None:
            reduced = self._reduced[cls] = NotImplemented if _is_importable(cls) else self._reduce(cls)
        return reduced

    def _reduce(self, cls: type) -> tuple[Any, ...]:
        from cloudpickle import cloudpickle

        token: str = cloudpickle._get_or_create_tracker_id(cls)
        if token in self._announced:
            _CLASSES[token] = cls
            return announced_class, (token,)
        return restore_class, define(cls)

    def of_abstract_class(self, cls: type) -> Any:
        """Return how to pickle a class as a dispatch table has to be told it."""
        reduced = self.of_class(cls)
        return cls.__qualname__ if reduced is NotImplemented else reduced

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


def define(cls: type) -> tuple[str, bytes]:
    """Return a class's token and its definition."""
    from cloudpickle import cloudpickle

    token: str = cloudpickle._get_or_create_tracker_id(cls)
    _CLASSES[token] = cls
    sink = io.BytesIO()
    _definition_pickler()(sink, protocol=5).dump(cls)
    return token, sink.getvalue()


@functools.cache
def _definition_pickler() -> Any:
    import cloudpickle

    class DefinitionPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no type information
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: by_value.reduce_code, **by_value.logger_reducers()}, cloudpickle.Pickler.dispatch_table
        )

        def reducer_override(self, obj: Any) -> Any:
            by_value.note_module(obj)
            reduced = super().reducer_override(obj)
            return by_value.with_slots(obj, reduced) if isinstance(obj, type) else reduced

    return DefinitionPickler


def restore_class(token: str, definition: bytes) -> type:
    """Return the class with this token, or make it. Pickles in capsules refer to this function by its name."""
    cls = _CLASSES.get(token)
    if cls is None:
        cls = _CLASSES[token] = pickle.loads(definition)
    return cls


def announced_class(token: str) -> type:
    """Return the class with this token, which was announced. Pickles in capsules refer to this function by its name."""
    cls = _CLASSES.get(token)
    return restore_class(token, ANNOUNCED[token]) if cls is None else cls


class Announces:
    """Unpickling it tells the process about definitions; it becomes an empty list, a block without tasks."""

    def __init__(self, definitions: dict[str, bytes]) -> None:
        self._definitions = definitions

    def __reduce__(self) -> tuple[Any, ...]:
        return learn_definitions, (self._definitions,)


def learn_definitions(definitions: dict[str, bytes]) -> list[Any]:
    """Note definitions that others will refer to. Pickles in capsules refer to this function by its name."""
    ANNOUNCED.update(definitions)
    return []
