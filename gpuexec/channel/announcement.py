"""The definitions of a script's task classes, sent to each worker once, so that tasks need only refer to them.

A block of tasks must make sense to every worker that may get it, also where no other block came before. So what the
blocks of a run refer to is decided before it starts: the task classes in the driver's ``__main__``, which no worker can
import. Classes that are made elsewhere, or later, travel with each block.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpuexec.channel import codec
from gpuexec.channel.definitions import Announces, define
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import store
from gpuexec.channel.segments import SegmentPool
from gpuexec.contract.task import is_task_class
from gpuexec.units import MIB

_MAX_BYTES = MIB  # of a definition: a worker may never need it


class Announcement(NamedTuple):
    """``payload``: for each worker, and for capsules. ``tokens``: what may be referred to. The classes stay alive."""

    payload: Payload
    tokens: frozenset[str]
    classes: tuple[type, ...]


def announce_task_classes() -> Announcement | None:
    """Return the announcement of the task classes that are in ``__main__`` now; ``None`` if there are none."""
    classes, definitions = task_class_definitions()
    if not classes:
        return None
    payload = store(codec.encode(Announces(definitions)), SegmentPool())
    shared = payload.shared() if isinstance(payload, SegmentRef) else payload
    return Announcement(shared, frozenset(definitions), classes)


def task_class_definitions() -> tuple[tuple[type, ...], dict[str, bytes]]:
    """Return the task classes that are in ``__main__`` now, and their definitions by token."""
    classes = tuple(_task_classes())
    definitions: dict[str, bytes] = {}
    for cls in classes:
        try:
            token, definition = define(cls)
        except Exception:  # noqa: BLE001, S112 - whoever sends one of its tasks is told
            continue
        if len(definition) <= _MAX_BYTES:
            definitions[token] = definition
    return classes, definitions


def _task_classes() -> Iterator[type]:
    main: Any = sys.modules.get("__main__")
    for value in list(vars(main).values()) if main is not None else ():
        if isinstance(value, type) and value.__module__ == "__main__" and is_task_class(value):
            yield value
