"""The checkpoint of a run, as the driver holds it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Any

from gpuexec.checkpoint.fingerprint import Fingerprint, differences, fingerprint_of
from gpuexec.checkpoint.journal import Journal
from gpuexec.core.sources import SourceTracker
from gpuexec.errors import CheckpointError, CheckpointMismatch, ConfigurationError, StageContractError

_RANDOM_ID = re.compile("r[0-9a-f]{32}")
_SHOWN_DIFFERENCES = 10


class Checkpoint:
    """Which sources to skip, and what becomes of the others.

    The driver admits every source, reports every complete batch, and commits once a step of its loop. A
    source's small integer travels with its tasks. Methods that touch the file raise ``CheckpointError``.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tracker = SourceTracker()
        self._warned_positional = False
        self._ended = False
        self.skipped = 0  # sources that an earlier run had done

    @classmethod
    def open(cls, folder: str | os.PathLike[str], stages: Sequence[Any], *, accept_changed: bool = False) -> Checkpoint:
        """Take hold of a checkpoint folder for a run of these stages, before any of them is set up.

        Raises ``ConfigurationError`` for stages that are not resumable, ``CheckpointMismatch`` where the
        folder belongs to another pipeline (unless ``accept_changed``), ``CheckpointError`` where it is in
        use or cannot be written.
        """
        refuse_unresumable(stages)
        now = fingerprint_of(stages)
        journal = Journal.open(folder)
        try:
            last = journal.last_pipeline()
            if last is not None and not accept_changed:
                _refuse_change(str(folder), differences(Fingerprint.from_json(last), now))
            journal.begin(digest=now.digest, pipeline=now.to_json())
        except BaseException:
            journal.close()
            raise
        return cls(journal)

    def admit(self, key: str) -> int | None:
        """Take in a task of the source with this key (its ``task_id``); ``None``: done before, drop the task.

        Raises ``StageContractError`` for a random id, which no later run could recognise.
        """
        if _RANDOM_ID.fullmatch(key):
            raise StageContractError(
                "the source stage returned another number of tasks than it was given, so their ids are random "
                "and a later run could not tell which are done: give it batch_size=1, or return one per input"
            )
        if key.endswith("_0") and not self._warned_positional:
            self._warn_positional(key)
        if self._journal.is_done(key):
            self.skipped += 1
            return None
        return self._tracker.opened(key)

    def batch_done(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        """Report a complete batch; return each output's source. See ``SourceTracker.moved_batch``."""
        return self._tracker.moved_batch(inputs, parents, ends=ends)

    def failed(self, source: int, reason: str) -> None:
        """A task of the source was given up: a later run takes the source up again.

        In the same step as the ``batch_done`` that consumed the task, before or after it.
        """
        self._tracker.failed(source, reason)

    def gave_up(self, inputs: Sequence[int], reason: str) -> None:
        """A whole batch was given up: its tasks are gone and their sources failed."""
        for source in dict.fromkeys(inputs):
            self._tracker.failed(source, reason)
        self._tracker.moved_batch(inputs, (), ends=True)

    def commit(self) -> None:
        """Write what this step completed, in one transaction; nothing to write costs nothing."""
        settled = self._tracker.settle()
        if settled:
            self._journal.record(settled)

    def drop_uncommitted(self) -> None:
        """Forget what this step completed: nobody has got it, so a later run is to do it again."""
        self._tracker.settle()

    def end(self, error: str | None = None) -> None:
        """Write the rest and how the run ended, and let go of the folder. Safe to repeat."""
        if self._ended:
            return
        self._ended = True
        try:
            with contextlib.suppress(CheckpointError) if error else contextlib.nullcontext():
                self.commit()  # of a run that failed for another reason, that reason is what the caller sees
                self._journal.end(error or "done")
        finally:
            self._journal.close()

    def _warn_positional(self, key: str) -> None:
        from loguru import logger

        self._warned_positional = True
        logger.warning(
            "checkpoint: source {} is known by its position only. If the order of the inputs changes before the next "
            "run, it would skip the wrong ones; a task class with get_deterministic_id() prevents that",
            key,
        )


def refuse_unresumable(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` if a stage says that its outputs cannot be traced to sources."""
    fixed = [stage.name for stage in stages if not getattr(stage, "is_resumable", True)]
    if fixed:
        raise ConfigurationError(
            f"a checkpoint was asked for, but these stages are not resumable: {fixed}. Run without one, or set "
            "is_resumable=True once you know that every output comes from the inputs of its own batch"
        )


def _refuse_change(folder: str, changes: Sequence[str]) -> None:
    if not changes:
        return
    more = len(changes) - _SHOWN_DIFFERENCES
    lines = [*changes[:_SHOWN_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
    raise CheckpointMismatch(
        f"checkpoint {folder!r} was made by another pipeline, and its outputs would be mixed with this one's:\n"
        + "".join(f"  {line}\n" for line in lines)
        + "Give another folder to start from the beginning, undo the change, or keep what is done with "
        "accept_changed_pipeline=True"
    )
