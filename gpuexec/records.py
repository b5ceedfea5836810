"""Records: dataclasses whose classes cost almost nothing to define.

A frozen, slotted dataclass takes 0.5 ms to define, since its methods are compiled from text. The driver defines some
fifty classes before it can start a run, and every template and spawned worker defines all message classes before it
can receive its stage. Records share the methods of their base class instead. To create one costs about 2 µs more, so
what is created per batch or task stays a dataclass.

Fields are declared as in dataclasses, with `dataclasses.field` where a field needs it, and ``fields``, ``replace``,
``asdict`` and ``is_dataclass`` of that module work on records.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field
from typing import Any, ClassVar, dataclass_transform


class _RecordMeta(type):
    """Turns annotations into slots. A class's own fields come before inherited ones."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> _RecordMeta:
        own: dict[str, Field[Any]] = {}
        for field_name, kind in namespace.get("__annotations__", {}).items():
            if "ClassVar" not in str(kind):
                own[field_name] = _field(field_name, kind, namespace.pop(field_name, MISSING))
        inherited: dict[str, Field[Any]] = getattr(bases[0], "__dataclass_fields__", {}) if bases else {}
        namespace["__slots__"] = tuple(own)
        namespace["__dataclass_fields__"] = fields = {**own, **inherited}
        namespace["__match_args__"] = namespace["_names"] = tuple(fields)
        namespace["_defaults"] = {each.name: each.default for each in fields.values() if each.default is not MISSING}
        return super().__new__(mcs, name, bases, namespace, **options)


def _field(name: str, kind: Any, default: Any) -> Field[Any]:
    made: Field[Any] = default if isinstance(default, Field) else dataclasses.field(default=default)
    made.name, made.type = name, kind
    made._field_type = dataclasses._FIELD  # type: ignore[attr-defined]  # or `dataclasses.fields` would not see it
    return made


class _AnyRecord(metaclass=_RecordMeta):
    """What frozen and mutable records have in common."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _names: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, Any]]

    def __init__(self, *values: Any, **named: Any) -> None:
        names, defaults = self._names, self._defaults
        for name, value in zip(names, values, strict=False):
            object.__setattr__(self, name, value)
        for name in names[len(values) :]:
            value = named.pop(name, defaults.get(name, MISSING))
            object.__setattr__(self, name, self._made(name) if value is MISSING else value)
        if named or len(values) > len(names):
            raise TypeError(f"{type(self).__name__}() takes {', '.join(names)}; got {values!r} and {sorted(named)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields, in subclasses."""

    def _made(self, name: str) -> Any:
        make = self.__dataclass_fields__[name].default_factory
        if make is MISSING:
            raise TypeError(f"{type(self).__name__}() is missing {name!r}")
        return make()

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields' values, in order."""
        return tuple(getattr(self, name) for name in self._names)

    def __repr__(self) -> str:
        shown = [name for name, each in self.__dataclass_fields__.items() if each.repr]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.to_tuple()


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Record(_AnyRecord):
    """Base of records that are values: frozen, equal if their fields are."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}: {type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}: {type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_tuple() == other.to_tuple()

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name, each in self.__dataclass_fields__.items() if each.hash is None))


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
class MutableRecord(_AnyRecord):
    """Base of records whose fields may be assigned. Each is equal to itself only."""
