"""The one kind of task that these runs have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuexec import Task


@dataclass(repr=False)
class Blob(Task[Any]):
    """Bytes, or what has been made of them."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True
