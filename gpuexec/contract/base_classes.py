"""Which classes belong to a library and not to the user: a stage's own settings and methods are not defined in them.

Another library that follows the contract registers the modules of its base classes here.
"""

from __future__ import annotations

_MODULES = {"gpuexec.contract.stage", "gpuexec.contract.composite", "abc", "builtins", "typing"}


def register_base_module(module_name: str) -> None:
    """Declare that the classes of a module are base classes. The module need not be imported; safe to repeat."""
    _MODULES.add(module_name)


def is_base_class(cls: type) -> bool:
    """Return whether a class is one of a library's base classes (or of Python's own)."""
    return cls.__module__ in _MODULES
