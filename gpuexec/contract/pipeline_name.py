"""The name of the pipeline that is being run. Executors are called with stages only, in NeMo Curator's contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_NAME: ContextVar[str | None] = ContextVar("gpuexec_pipeline_name", default=None)


@contextlib.contextmanager
def pipeline_named(name: str) -> Iterator[None]:
    """Let runs that begin inside the block be of a pipeline with this name."""
    token = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(token)


def current_pipeline_name() -> str | None:
    """Return the name of the pipeline that is being run; ``None`` if the executor was called without one."""
    return _NAME.get()
