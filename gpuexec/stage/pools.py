"""Lets a stage of a script or notebook use a pool of processes with functions and classes of the same script.

multiprocessing sends a function by its name, and the child looks the name up in ``__main__``. In a worker, ``__main__``
is not the user's script: the script's definitions arrived by value. So here they are sent on by value, to the child and
back, for every start method. multiprocessing is only extended when something imports it, since that takes 2 ms.
"""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

from gpuexec.channel import codec
from gpuexec.stage.after_import import after_import

_MAIN_MODULES = ("__main__", "__mp_main__")  # the latter is that of a driver which multiprocessing has spawned
_PICKLER_MODULE = "multiprocessing.reduction"
_installed = False


def support_pools() -> None:
    """Do so in this process. Nothing happens unless definitions of another ``__main__`` have arrived here."""
    global _installed  # noqa: PLW0603 - it describes the process
    if _installed or "cloudpickle" not in sys.modules:
        return
    _installed = True
    after_import(_PICKLER_MODULE, _extend)


def load(definition: bytes) -> Any:
    """Return a function or class that `_by_value` pickled; in the child, what it returns goes back the same way."""
    import cloudpickle  # noqa: F401 - `support_pools` goes by it

    support_pools()
    return codec.decode(definition, in_place=False)


def _extend(module: Any) -> None:
    module.ForkingPickler.reducer_override = _by_value


def _by_value(_pickler: Any, obj: Any) -> Any:
    if isinstance(obj, FunctionType | type) and obj.__module__ in _MAIN_MODULES and not _is_in_main(obj):
        return load, (codec.encode_by_value(obj).join(),)
    return NotImplemented


def _is_in_main(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj
