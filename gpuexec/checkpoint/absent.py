"""The checkpoint of a run that keeps none, in a module of its own: such a run imports nothing else of this package."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.core.lineage import NoLineage
from gpuexec.core.stage import StageSpec


class NoCheckpoint:
    """The checkpoint of a run that keeps none."""

    folder: str | None = None
    skipped = 0
    hash_seed: int | None = None
    task_seed: int | None = None
    start_note: str | None = None
    is_stored = False

    def lineage(self, specs: Sequence[StageSpec]) -> NoLineage:  # noqa: ARG002 - the interface of Checkpoint
        """Return the lineage of a run in which nobody asks for sources."""
        return NoLineage()

    def commit(self) -> bool:
        """Do nothing. Return that nothing was written."""
        return False

    def end_early(self) -> str | None:
        """Do nothing."""
        return None

    def close(self, error: str | None = None) -> None:
        """Do nothing."""
