"""Records behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import ClassVar

import pytest

from gpuexec.records import MutableRecord, Record


class Base(Record):
    tail: tuple[int, ...] = field(default=(), kw_only=True)
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


class Owner(Record):
    name: str
    notes: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    limit: int = field(default=1, metadata={"about": "a limit"})

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(self.limit)


class Count(MutableRecord):
    number: int = 0


def test_defaults_that_are_made_are_not_shared():
    first, second = Owner("a"), Owner("a")
    first.notes["x"] = "y"
    assert second.notes == {}
    assert first != second
    assert hash(first) == hash(second)
    assert repr(first) == "Owner(name='a', limit=1)"


def test_fields_are_checked_after_they_are_set():
    with pytest.raises(ValueError, match="-1"):
        Owner("a", limit=-1)


def test_the_functions_of_dataclasses_work_on_them():
    owner = Owner("a", {"x": "y"})
    assert dataclasses.is_dataclass(Owner)
    assert [each.name for each in dataclasses.fields(Owner)] == ["name", "notes", "limit"]
    assert dataclasses.fields(Owner)[2].metadata["about"] == "a limit"
    assert dataclasses.replace(owner, limit=2) == Owner("a", {"x": "y"}, 2)
    assert dataclasses.asdict(owner) == {"name": "a", "notes": {"x": "y"}, "limit": 1}
    match owner:
        case Owner(name, notes):
            assert (name, notes) == ("a", {"x": "y"})


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_and_pickles_have_the_same_fields(copied):
    assert copied(Point(1, tail=(2,))) == Point(1, tail=(2,))
    assert copied(Count(3)).number == 3


def test_mutable_ones_are_equal_to_themselves_only():
    count = Count()
    count.number += 1
    assert (count.number, Count().number) == (1, 0)
    assert count == count
    assert count != Count(1)
    assert not hasattr(count, "__dict__")
