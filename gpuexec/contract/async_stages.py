"""Which stages are asynchronous, and how many calls a worker of one has in flight at once."""

from __future__ import annotations

import inspect
from typing import Any

from gpuexec.contract.base_classes import is_base_class
from gpuexec.errors import ConfigurationError

DEFAULT_CONCURRENCY = 16
"""Calls in flight per worker unless somebody says otherwise: what hides 15/16 of the time that a server takes, and what
servers and rate limits commonly allow one client."""


def is_async(stage: Any) -> bool:
    """Whether a stage's ``process_batch``, or the ``process`` that the base class's calls, is a coroutine function."""
    return takes_batches(stage) or (
        inspect.iscoroutinefunction(getattr(stage, "process", None)) and not has_own_batches(stage)
    )


def takes_batches(stage: Any) -> bool:
    """Whether its ``process_batch`` is a coroutine function. Otherwise an asynchronous stage takes tasks one by one."""
    return inspect.iscoroutinefunction(stage.process_batch)


def has_own_batches(stage: Any) -> bool:
    """Whether ``process_batch`` is the stage's own and not a library's, which calls ``process``."""
    if "process_batch" in vars(stage):
        return True
    return not is_base_class(next(cls for cls in type(stage).__mro__ if "process_batch" in vars(cls)))


def check_async(stage: Any) -> None:
    """Raise ``ConfigurationError`` for coroutine functions that nobody would await, and for asynchronous generators."""
    for method in ("process", "process_batch"):
        if inspect.isasyncgenfunction(getattr(stage, method, None)):
            raise ConfigurationError(
                f"stage {stage.name!r}: {method}() is an asynchronous generator: return a list instead of yielding"
            )
    if is_async(stage):
        return
    for method in ("setup", "setup_on_node", "teardown"):
        if inspect.iscoroutinefunction(getattr(stage, method, None)):
            raise ConfigurationError(
                f"stage {stage.name!r}: {method}() is `async def`, and process() is not, so there is no event loop to "
                f"await it: make process() `async def` too, or {method}() a plain method"
            )


def stated_concurrency(stage: Any) -> int | None:
    """Return the stage's own ``max_concurrency``; ``None`` if it states none. Raises ``ConfigurationError``."""
    value = getattr(stage, "max_concurrency", None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"stage {stage.name!r}: max_concurrency must be a whole number >= 1, got {value!r}")
    return value
