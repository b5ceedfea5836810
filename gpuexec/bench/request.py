"""What was asked of a sweep, and how that differs from what was asked before. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from gpuexec.bench.model import Goal, SearchKind
from gpuexec.bench.space import name_of
from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError, SweepImpossible
from gpuexec.records import Record

BUDGET_S = 12.0  # a little more than the 10 s that a measured energy needs
LIMIT_S = 1200.0
_NOT_OPTIONS = {
    "run_dir": "the folder of the sweep keeps the runs",
    "warm_idle_s": "each trial is a process of its own, which leaves nothing for the next",
    "checkpoint": "a later trial would skip what the first one has done",
    "accept_changed_pipeline": "trials keep no checkpoint",
    "stage_options": "name the stage instead: STAGE.max_attempts=…",
}
_MAY_CHANGE = {"repeat", "cooldown_s", "limit_s"}  # they change no result that is there


class Request(Record):
    """What is to be swept, and how.

    ``target``: its name, which for an object given in Python only describes it. ``directory``: where the trials run.
    ``vary``: names and values, texts as they were written. ``points``: settings to try, instead of all combinations of
    ``vary``. ``arguments``: of the target function, for all points (``--set``). ``options``: of the executor, checked.
    ``seed``: of the order of the trials; ``None``: any. ``budget_s``: of the first rung of a halving search.
    ``limit_s``: for one trial.
    """

    target: str
    directory: str | None
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, hash=False)
    points: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    goal: Goal = Goal.THROUGHPUT
    search: SearchKind = SearchKind.GRID
    repeat: int = 5
    warmup: int = 1
    seed: int | None = None
    budget_s: float = BUDGET_S
    cooldown_s: float = 0.0
    limit_s: float = LIMIT_S

    def checked(self) -> Request:
        """Return this request if it can be met. Raises ``ConfigurationError``."""
        if self.vary and self.points:
            raise ConfigurationError("give either vary, for all combinations of the values, or points, not both")
        for name in self.names:
            _check_name(name)
            values = self.vary.get(name, [settings[name] for settings in self.points if name in settings])
            if not values:
                raise ConfigurationError(f"{name} has no values to vary")
            for value in values:
                _check_value(name, value)
        self._check_numbers()
        return self

    def _check_numbers(self) -> None:
        for name, least in (("repeat", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} must be a whole number >= {least}, got {getattr(self, name)}")
        for name, least_s in (("budget_s", 0.001), ("limit_s", 0.001), ("cooldown_s", 0.0)):
            if not least_s <= getattr(self, name) < math.inf:
                raise ConfigurationError(
                    f"{name} must be a number of seconds >= {least_s:g}, got {getattr(self, name)}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """What is varied, in the order given."""
        return tuple(dict.fromkeys([*self.vary, *(name for settings in self.points for name in settings)]))

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain values."""
        values: dict[str, Any] = json.loads(json.dumps({name: getattr(self, name) for name in self._names}))
        return values


def read_request(data: Mapping[str, Any]) -> Request:
    """Return the request that `Request.as_dict` made these values of.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` for others.
    """
    known = {name: data[name] for name in Request._names}
    known["vary"] = {name: tuple(values) for name, values in data["vary"].items()}
    known["points"] = tuple(data["points"])
    return Request(**{**known, "goal": Goal(data["goal"]), "search": SearchKind(data["search"])})


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return executor options as plain values, checked.

    Raises ``ConfigurationError`` for what the executor refuses, and for options that a sweep sets itself.
    """
    config = ExecutorConfig.create(options)
    for name in options:
        if name != "stage_options":
            _refuse_own_option(name)
    return {name: json.loads(json.dumps(getattr(config, name), default=list)) for name in options}


def differences(before: Request, now: Request) -> list[str]:
    """Return what two requests for one sweep differ in, a phrase for each; an empty list if results fit both.

    A seed that is not given fits any.
    """
    found: list[str] = []
    for name, (old, new) in {name: (getattr(before, name), getattr(now, name)) for name in Request._names}.items():
        if isinstance(old, Mapping):
            found += _in_mapping(name, old, new)
        elif name not in _MAY_CHANGE and old != new and not (name == "seed" and new is None):
            found.append(f"{name} was {_text(old)} and is {_text(new)}")
    return found


def continued(before: Request, now: Request, folder: Path) -> Request:
    """Return ``now``. Raises ``SweepImpossible``, which says what differs, if results of ``before`` do not fit it."""
    different = differences(before, now)
    if different:
        raise SweepImpossible(
            f"{folder}: this sweep cannot go on with other settings: {'; '.join(different)}. Ask for what it began "
            "with, or begin another one in another folder"
        )
    return now


def _in_mapping(field_name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    owner = {"vary": "--vary ", "arguments": "--set ", "options": "option "}[field_name]
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name) or (name in old) != (name in new):
            was, now = (_text(values[name]) if name in values else "absent" for values in (old, new))
            yield f"{owner}{name} was {was} and is {now}"
    if list(old) != list(new) and set(old) == set(new) and field_name == "vary":
        yield f"the order of what is varied was {', '.join(old)} and is {', '.join(new)}"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _check_name(name: str) -> None:
    found = name_of(name)
    if found.part == "option":
        _refuse_own_option(found.key)


def _refuse_own_option(name: str) -> None:
    if name in _NOT_OPTIONS:
        raise ConfigurationError(f"option {name!r} cannot be set for a sweep: {_NOT_OPTIONS[name]}")


def _check_value(name: str, value: Any) -> None:
    try:
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        plain = None
    if plain != (list(value) if isinstance(value, tuple) else value):
        raise ConfigurationError(
            f"{name}={value!r}: a value that is varied must be a number, text, True, False, None, or a list or dict of "
            "such, so that it can be stored. Let a function make the object: vary set.KEY, an argument of the target"
        )
