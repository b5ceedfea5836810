"""The options as types say what ``ExecutorConfig`` says: names, types, and which are for whom."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal

import pytest

from gpuexec import InlineExecutor, LocalExecutor, ProcessingStage, options
from gpuexec.config import ExecutorConfig
from gpuexec.option_checks import log_level

FIELDS = {option.name: option for option in dataclasses.fields(ExecutorConfig)}
OF_ALL = typing.get_type_hints(options.LocalOptions)
PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "Mapping[str, Any]": Mapping[str, Any]}


def names_where(fact: str) -> set[str]:
    return {name for name, option in FIELDS.items() if option.metadata[fact]}


def test_the_names_and_whom_they_are_for():
    assert set(OF_ALL) == set(FIELDS)
    assert set(typing.get_type_hints(options.InlineOptions)) == names_where("inline")
    assert set(typing.get_type_hints(options.StageOptions)) == names_where("per_stage")
    for made in (options.LocalOptions, options.InlineOptions, options.StageOptions):
        assert not made.__required_keys__


def members_of(hint: Any) -> set[Any]:
    return (
        set(typing.get_args(hint)) if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union else {hint}
    )


def expected_members(option: dataclasses.Field[Any]) -> set[Any]:
    """Return what a caller may give, which is more than what the config then holds."""
    kind, _, none = str(option.type).partition(" | ")
    policy = option.metadata.get("policy")
    if policy is not None:
        members = {Literal[tuple(policy)], policy}
    elif kind.startswith("tuple"):
        members = members_of(options.ExceptionNames)
    elif option.metadata["check"] is log_level:
        members = {options.LogLevel}
    elif option.name == "stage_options":
        members = {Mapping[str, options.StageOptions]}
    elif option.name == "shard":
        members = {str}
    elif kind == "str":
        members = {str, os.PathLike[str]}
    else:
        members = {PLAIN[kind]}
    return members | ({NoneType} if none else set())


@pytest.mark.parametrize("option", FIELDS.values(), ids=FIELDS)
def test_the_type_of_an_option(option):
    found, expected = members_of(OF_ALL[option.name]), expected_members(option)
    assert plain(found) == plain(expected)


def plain(members: set[Any]) -> set[Any]:
    """Return the members with a literal as the set of its values: their order says nothing."""
    return {frozenset(map(str, typing.get_args(m))) if typing.get_origin(m) is Literal else m for m in members}


def test_every_log_level_is_accepted():
    for level in typing.get_args(options.LogLevel):
        assert log_level(level) is None


@pytest.mark.parametrize(
    ("function", "declared"),
    [
        (LocalExecutor.__init__, "Unpack[LocalOptions]"),
        (InlineExecutor.__init__, "Unpack[InlineOptions]"),
        (ProcessingStage.with_, "Unpack[StageOptions]"),
    ],
)
def test_the_functions_declare_them(function, declared):
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD]
    assert [p.annotation for p in keywords] == [declared]
