"""What a sweep varies: names such as ``embed.batch_size``, their values, and the points they span. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from gpuexec.bench.model import TODAY, Point
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record

_OPENING, _CLOSING = "([{", ")]}"


class Part(StrEnum):
    """What a name belongs to."""

    STAGE = "stage"
    OPTION = "option"  # of the executor
    ARGUMENT = "set"  # of the function that returns the pipeline


class Name(Record):
    """A name that is varied, in its parts. ``stage``: empty unless it is a stage's."""

    part: Part
    stage: str
    key: str


class Changes(Record):
    """The settings of a point, by what they change: stages by their names, executor options, and arguments."""

    stages: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    arguments: Mapping[str, Any]


def name_of(text: str) -> Name:
    """Return the parts of ``STAGE.key``, ``option.NAME`` or ``set.KEY``. Raises ``ConfigurationError`` for others."""
    owner, dot, key = text.rpartition(".")
    if not dot or not owner or not key.isidentifier():
        raise ConfigurationError(
            f"{text!r} cannot be varied: name a stage's setting as STAGE.key (embed.batch_size), an executor option as "
            "option.NAME (option.queue_tasks), or an argument of the target as set.KEY"
        )
    if owner in (Part.OPTION, Part.ARGUMENT):
        return Name(Part(owner), "", key)
    return Name(Part.STAGE, owner, key)


def parse_vary(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names and values of ``NAME=VALUE,VALUE`` texts, the values as they were written.

    Commas inside quotes and brackets belong to a value. Raises ``ConfigurationError`` for what cannot be read.
    """
    varied: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigurationError(f"--vary {text!r} must be NAME=VALUE,VALUE, such as embed.batch_size=1,8,32")
        name_of(name)
        if name in varied:
            raise ConfigurationError(f"--vary {name} is given twice: list all of its values in one, with commas")
        varied[name] = split_values(values)
        if varied[name] == ("",):
            raise ConfigurationError(
                f"--vary {text!r} has no value: write one or more after the =, with commas between"
            )
        if not all(varied[name]):
            raise ConfigurationError(f"--vary {text!r}: there is no value before or after a comma")
    return varied


def split_values(text: str) -> tuple[str, ...]:
    """Return the parts of a text between commas that are in no quotes and no brackets, without blanks around them."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth = max(0, depth - 1)
        elif char == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    return tuple(part.strip() for part in parts)


def points_of(varied: Mapping[str, Sequence[Any]], today: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return the points of the grid: today's configuration first, then every other combination of the values.

    ``today``: what each varied name is without a setting. A combination that equals it is not a point of its own.
    """
    combinations = itertools.product(*(_distinct(values) for values in varied.values()))
    return listed_points([dict(zip(varied, values, strict=True)) for values in combinations], today)


def listed_points(settings: Sequence[Mapping[str, Any]], today: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return today's configuration, and a point for each of the settings that differ from it."""
    others = [dict(one) for one in settings if not _is_today(one, today)]
    return (Point(TODAY, {}), *(Point(f"p{number:02}", one) for number, one in enumerate(_distinct(others), start=1)))


def changes_of(settings: Mapping[str, Any]) -> Changes:
    """Return a point's settings by what they change."""
    stages: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for text, value in settings.items():
        name = name_of(text)
        if name.part is Part.STAGE:
            stages.setdefault(name.stage, {})[name.key] = value
        else:
            (options if name.part is Part.OPTION else arguments)[name.key] = value
    return Changes(stages, options, arguments)


def _is_today(settings: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    return all(name in today and _same(today[name], value) for name, value in settings.items())


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return the values without those that an earlier one equals."""
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(_identity(value), value)
    return list(found.values())


def _same(one: Any, other: Any) -> bool:
    return _identity(one) == _identity(other)


def _identity(value: Any) -> str:
    """Return a text that equal values share. 1 and 1.0 are one value, 1 and True are two."""
    return json.dumps(_normal(value), sort_keys=True, default=str)


def _normal(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {name: _normal(each) for name, each in value.items()}
        case list() | tuple():
            return [_normal(each) for each in value]
    return value
