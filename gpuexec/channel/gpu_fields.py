"""Find the fields of a pickled object from which something was moved off a GPU, and warn about each of them once."""

from __future__ import annotations

import contextlib
import copyreg
import threading
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gpuexec.channel import tensors

_MAX_WARNINGS = 20  # per process: dict keys may be data, and each would count as a new field
_MAX_VISITED = 2000  # objects examined in a search, 1 ms

_reported: set[str] = set()


def report_moves(root: object) -> None:
    """Warn if this thread moved something off a GPU while it pickled ``root``, naming each field once per process."""
    if threading.get_ident() not in tensors.UNREPORTED_MOVES:
        return
    tensors.UNREPORTED_MOVES.discard(threading.get_ident())
    if len(_reported) >= _MAX_WARNINGS:
        return
    fields = set(fields_on_gpu(root)) or {f"{_task_class_name(root)} (in a field that was not found)"}
    for field in sorted(fields - _reported)[: _MAX_WARNINGS - len(_reported)]:
        from loguru import logger  # imported late: it takes 0.1 s

        _reported.add(field)
        logger.warning(
            f"{field} lies in GPU memory: it is copied to host memory and arrives there, since workers do not share "
            "GPU memory. If that is intended, move it in the stage (.cpu()); if not, keep it within one stage."
        )


def fields_on_gpu(root: object) -> list[str]:
    """Return what lies on a GPU, as ``Class.attribute['key'][*]``, by a breadth-first search.

    If ``root`` is a list of tasks, the paths start at the tasks.
    """
    roots = root if isinstance(root, list) else [root]
    queue = deque((type(each).__name__, each) for each in roots[:_MAX_VISITED])
    visited: set[int] = set()
    paths: dict[str, None] = {}
    while queue and len(visited) < _MAX_VISITED:
        path, value = queue.popleft()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if tensors.lies_on_gpu(value):
            paths[path] = None
        else:
            with contextlib.suppress(Exception):  # attribute access runs the user's code, which may raise anything
                queue.extend(_children(path, value))
    return list(paths)


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that an object contains, with their paths.

    Positions in a list, and dict keys that are not strings, are data, not names of fields.
    """
    if isinstance(value, dict):
        for key, part in dict.items(value):
            yield (f"{path}[{key!r}]" if isinstance(key, str) else f"{path}[*]"), part
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for part in value:
            yield f"{path}[*]", part
    if isinstance(value, type | ModuleType):
        return
    for name, part in getattr(value, "__dict__", {}).items():
        yield f"{path}.{name}", part
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]  # includes those of all bases
        if hasattr(value, name):
            yield f"{path}.{name}", getattr(value, name)


def _task_class_name(root: object) -> str:
    return type(root[0] if isinstance(root, list) and root else root).__name__
