"""Modules that this process has and a worker could not import: what they define is sent by value.

* The main module of a process that multiprocessing has spawned is called ``__mp_main__``.
* A module that was loaded from its file, by whatever path, has a name that may lead nowhere: plugins, pytest's import
  mode ``importlib``, ``runpy`` (cloudpickle#515, dask/distributed#8607).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

_SPAWNED_MAIN = "__mp_main__"
_IN_EVERY_WORKER = sys.stdlib_module_names | {__name__.partition(".")[0], "__main__"}  # `__main__` is by value anyway


def send_own_modules_by_value(objects: Iterable[Any]) -> None:
    """Do so in this process, for the modules of these objects' classes, and of the functions and classes they hold."""
    names = {name for obj in objects for name in _modules_of(obj)} | {_SPAWNED_MAIN}
    own = [name for name in names if _is_here(name) and not _can_be_imported(name)]
    if not own:
        return
    import cloudpickle

    known = cloudpickle.list_registry_pickle_by_value()
    for name in own:
        if name not in known:
            cloudpickle.register_pickle_by_value(sys.modules[name])


def _is_here(name: str) -> bool:
    module = sys.modules.get(name)
    return (
        getattr(module, "__name__", None) == name
    )  # multiprocessing calls every process's main module __mp_main__ too


def _modules_of(obj: Any) -> Iterator[str]:
    for cls in type(obj).__mro__:
        yield cls.__module__
    for value in getattr(obj, "__dict__", {}).values():
        yield (value if isinstance(value, type | FunctionType) else type(value)).__module__


@functools.cache
def _can_be_imported(name: str) -> bool:
    """Return whether the finders of imports know a module, whether it is loaded or not."""
    if name.partition(".")[0] in _IN_EVERY_WORKER:
        return True
    package = name.rpartition(".")[0]
    path = None
    if package:
        path = getattr(sys.modules.get(package), "__path__", None)
        if path is None:  # a library makes it when it is imported
            return True
        if not _can_be_imported(package):
            return False
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and find(name, path) is not None:
            return True
    return False
