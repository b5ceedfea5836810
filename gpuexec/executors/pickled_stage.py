"""Pickles stages for workers, and says which attribute cannot be pickled."""

from __future__ import annotations

from typing import Any

from gpuexec.channel import codec
from gpuexec.errors import StageNotPicklable


def encoded_stage(stage: Any, name: str) -> tuple[codec.Encoded, list[str]]:
    """Pickle a stage for its workers; return also which modules they will import for it.

    Raises ``StageNotPicklable``, whose message names the attribute at fault.
    """
    try:
        return codec.encode_with_modules(stage)
    except Exception as error:
        culprit = _unpicklable_attribute(stage)
        subject = f"its attribute {culprit}" if culprit else "it"
        raise StageNotPicklable(
            f"stage {name!r} cannot be sent to a worker: {subject} cannot be pickled "
            f"({type(error).__name__}: {error}). Create such objects in setup(), which runs in the worker."
        ) from error


def _unpicklable_attribute(owner: Any, depth: int = 3) -> str | None:
    for name, value in getattr(owner, "__dict__", {}).items():
        try:
            codec.encode(value)
        except Exception:  # noqa: BLE001 - whatever pickling raises, this attribute is the culprit
            inner = _unpicklable_attribute(value, depth - 1) if depth else None
            return f"{name}.{inner}" if inner else f"{name} ({type(value).__name__})"
    return None
