"""Deduplication of documents on one node: exact and fuzzy, without a GPU and without Ray. See docs/dedup.md.

    from gpuexec.dedup import FuzzyDeduplication

    print(FuzzyDeduplication("input", "output", remove=True).run())

It needs the extra ``gpuexec[dedup]``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuexec.dedup.api import ExactDeduplication as ExactDeduplication
    from gpuexec.dedup.api import FuzzyDeduplication as FuzzyDeduplication
    from gpuexec.dedup.errors import DedupError as DedupError
    from gpuexec.dedup.errors import DuplicateIds as DuplicateIds
    from gpuexec.dedup.errors import OutputInUse as OutputInUse
    from gpuexec.dedup.errors import OutputNotWritten as OutputNotWritten
    from gpuexec.dedup.errors import UnreadableInput as UnreadableInput
    from gpuexec.dedup.workflow import DedupResult as DedupResult

_HOMES = {
    "ExactDeduplication": "api",
    "FuzzyDeduplication": "api",
    "DedupResult": "workflow",
    "DedupError": "errors",
    "DuplicateIds": "errors",
    "OutputInUse": "errors",
    "OutputNotWritten": "errors",
    "UnreadableInput": "errors",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - checkers read the imports above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuexec.dedup' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"gpuexec.dedup.{home}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("numpy", "pyarrow"):
            raise
        from gpuexec.errors import ConfigurationError

        raise ConfigurationError(f"deduplication needs {error.name}: pip install 'gpuexec[dedup]'") from error
