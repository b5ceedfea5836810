"""Stages that ask Ray for a named actor, as Curator's do that number documents across workers.

It is found in their code, without running it: asking Ray would start it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import Any

_ID_GENERATOR = "get_id_generator_actor"
_SWITCHES = ("_generate_ids", "_assign_ids", "assign_id_field", "assign_id")  # Curator's stages ask only with one set
_METHODS = ("setup_on_node", "setup")


def ray_actor_of(stage: Any) -> str | None:
    """Return the actor that a stage asks for when it is set up, in words; ``None`` if it asks for none."""
    for method in _METHODS:
        code = getattr(getattr(type(stage), method, None), "__code__", None)
        names = set(_names(code)) if isinstance(code, CodeType) else set()
        if _ID_GENERATOR in names and _is_switched_on(stage):
            return "the actor of Curator's id generator"
        if {"ray", "get_actor"} <= names and "init" not in names:
            return "a named actor"
    return None


def _is_switched_on(stage: Any) -> bool:
    switches = [getattr(stage, name) for name in _SWITCHES if hasattr(stage, name)]
    return not switches or any(switches)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function uses, those in functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
