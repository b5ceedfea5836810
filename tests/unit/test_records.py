"""Records behave as frozen dataclasses do."""

from __future__ import annotations

from typing import ClassVar

import pytest

from gpuexec.records import Record, named_field


class Base(Record):
    tail: tuple[int, ...] = named_field(default=(), kw_only=True)
    kind: ClassVar[int] = 0


class Point(Base):
    x: int
    y: int = 7

    kind: ClassVar[int] = 1


def test_fields_by_place_by_name_and_by_default():
    point = Point(1, tail=(2,))
    assert (point.x, point.y, point.tail, point.kind) == (1, 7, (2,), 1)
    assert Point(x=1) == Point(1, 7)
    assert point.to_tuple() == (1, 7, (2,))
    assert repr(point) == "Point(x=1, y=7, tail=(2,))"


def test_they_are_values():
    assert {Point(1): "a"}[Point(1)] == "a"
    assert Point(1) != Point(2)
    assert Point(1) != (1, 7, ())


def test_they_are_frozen_and_slotted():
    point = Point(1)
    with pytest.raises(AttributeError, match="cannot assign to field 'x': Point is frozen"):
        point.x = 2
    with pytest.raises(AttributeError, match="cannot delete"):
        del point.x
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Point, "is missing 'x'"),
        (lambda: Point(1, 2, (), 4), "takes x, y, tail"),
        (lambda: Point(1, z=3), r"\['z'\]"),
    ],
)
def test_wrong_fields_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()
