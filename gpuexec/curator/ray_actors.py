"""Stages that ask Ray for a named actor, as Curator's do that number documents across workers.

It is found in their code, without running it. Nothing here imports Ray or Curator.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuexec.curator.id_generator import OwnGenerator

RAY_ADDRESS = "RAY_ADDRESS"
ID_GENERATOR_VARIABLE = "GPUEXEC_ID_GENERATOR"  # in workers: where they ask for ids; empty if nobody serves them
_STARTS_ITS_OWN = "local"  # the value of RAY_ADDRESS that names no cluster

_ID_GENERATOR = "get_id_generator_actor"
_LOOKS_UP = "_assign_ids"  # the switch of those that ask for ids which were given before
_SWITCHES = ("_generate_ids", _LOOKS_UP, "assign_id_field", "assign_id")  # Curator's stages ask only with one set
_METHODS = ("setup_on_node", "setup")


class NamedActor(enum.Enum):
    """What a stage asks Ray for."""

    ID_GENERATOR = "the actor of Curator's id generator"
    OTHER = "a named actor"


def ray_actor_of(stage: Any) -> NamedActor | None:
    """Return the actor that a stage asks for when it is set up; ``None`` if it asks for none."""
    for method in _METHODS:
        names = _names_in_method(type(stage), method)
        if _ID_GENERATOR in names and _needs_ids(stage):
            return NamedActor.ID_GENERATOR
        if {"ray", "get_actor"} <= names and "init" not in names:
            return NamedActor.OTHER
    return None


def gives_new_ids(stage: Any) -> bool:
    """Return whether a stage that asks the id generator has it give new ids, and does not only look some up."""
    return not getattr(stage, _LOOKS_UP, False)


def names_cluster(environ: Mapping[str, str]) -> bool:
    """Return whether there is a Ray cluster to ask: the variables name one, or this process is connected to one."""
    if environ.get(RAY_ADDRESS, _STARTS_ITS_OWN) not in ("", _STARTS_ITS_OWN):
        return True
    ray: Any = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized()


def own_id_generator() -> OwnGenerator | None:
    """Return the id generator that this process has, ``None`` if nothing has created one."""
    module: Any = sys.modules.get("gpuexec.curator.id_generator")
    return None if module is None else module.current()


def _needs_ids(stage: Any) -> bool:
    if getattr(stage, "read_format", "") is None:
        return False  # MinHash on documents that have their ids; it reads no files
    switches = [getattr(stage, name) for name in _SWITCHES if hasattr(stage, name)]
    return not switches or any(switches)


def _names_in_method(cls: type, method: str) -> set[str]:
    """Return the names that a method uses, those in the methods of base classes that it calls included."""
    names: set[str] = set()
    for owner in cls.__mro__:
        code = getattr(vars(owner).get(method), "__code__", None)
        if isinstance(code, CodeType):
            own = set(_names(code))
            names |= own
            if "super" not in own:
                break
    return names


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function uses, those in functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
