"""The checkpoint of a run: which sources to skip, and what becomes of the others."""

from __future__ import annotations

import contextlib
import enum
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.core.lineage import Lineage
from gpuexec.core.sources import Settled, SourceTracker
from gpuexec.core.stage import StageSpec
from gpuexec.errors import CheckpointError, CheckpointMismatch, ConfigurationError
from gpuexec.naming import abbreviated
from gpuexec.shards import Shard, refuse_random

if TYPE_CHECKING:
    from gpuexec.checkpoint.journal import Journal

_MAX_SHOWN_DIFFERENCES = 10


class Delivery(enum.Enum):
    """When the tasks of a source are safe, so that the source may be recorded as done.

    A source that was filtered out entirely has no tasks, so it is recorded at once in any case.
    """

    STREAMED = "the caller takes them as they come: at the commit after they were handed over"
    AT_END = "the caller gets all of them when the run has succeeded, and none otherwise: at the end"
    STORED = "the last stage stores what it gets, and its tasks are of no further value: at once"
    STORED_AND_STREAMED = "as STORED, and the caller takes the tasks as they come"


class Checkpoint:
    """An open checkpoint folder, owned by one run.

    The driver admits every source, reports every complete batch, and commits once per turn of its loop. A source is
    represented by a small integer, which travels with its tasks. Methods that write to or read from the file raise
    ``CheckpointError``.
    """

    def __init__(
        self,
        journal: Journal,
        delivery: Delivery = Delivery.STREAMED,
        last_stage: str = "",
        task_seed: int | None = None,
    ) -> None:
        self._journal = journal
        self._delivery = delivery
        self._last_stage = last_stage
        self.task_seed = task_seed
        self._finished: dict[str, None] = {}  # sources with tasks that no caller has got yet (a set that keeps order)
        self._tracker = SourceTracker()
        self._warned_positional = False
        self._closed = False
        self.skipped = 0  # sources that an earlier run had done

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        stages: Sequence[Any],
        *,
        accept_changed: bool = False,
        delivery: Delivery = Delivery.STREAMED,
        task_seed: int | None = None,
        shard: Shard | None = None,
    ) -> Checkpoint:
        """Open a checkpoint folder for a run of these stages, before any of them is set up, and lock it.

        ``task_seed``: the run's own; without one it takes that of the folder's last run. ``shard``: the run's, which
        has a folder of its own in that folder.

        Raises ``ConfigurationError`` if a stage is not resumable, ``CheckpointMismatch`` if the folder belongs to
        another pipeline (unless ``accept_changed``) or another number of shards, and ``CheckpointError`` if it is in
        use or cannot be written.
        """
        from gpuexec.checkpoint.fingerprint import Fingerprint, differences, fingerprint_of  # both take 40 ms:
        from gpuexec.checkpoint.journal import Journal  # only a run with a checkpoint pays it
        from gpuexec.checkpoint.shard_folders import folder_of

        refuse_unresumable(stages)
        current = fingerprint_of(stages)
        folder = folder_of(folder, shard)
        journal = Journal.open(folder)
        try:
            last = journal.last_pipeline()
            changes = differences(Fingerprint.from_json(last), current) if last is not None else []
            if changes and accept_changed:
                _warn_of_change(str(folder), changes)
            elif changes:
                _refuse_change(str(folder), changes)
            task_seed = _seed_to_use(str(folder), journal.last_task_seed(), task_seed)
            journal.start_run(digest=current.digest, pipeline=current.to_json(), task_seed=task_seed, shard=shard)
        except BaseException:
            journal.close()
            raise
        return cls(journal, delivery, str(stages[-1].name), task_seed)

    @property
    def folder(self) -> str | None:
        """The folder that is this run's own: with a shard, one below the folder that all shards are given."""
        return str(self._journal.folder)

    @property
    def hash_seed(self) -> int | None:
        """The hash seed of the folder's runs: one that resumes another hashes as that one did."""
        digest = self._journal.first_digest()
        return None if digest is None else zlib.crc32(digest.encode())

    def lineage(self, specs: Sequence[StageSpec]) -> Lineage:
        """Return the lineage of the run's tasks, which reports to this checkpoint."""
        return Lineage(self, specs)

    def admit(self, key: str) -> int | None:
        """Open a task of the source with this key (its ``task_id``) and return the source's number.

        Returns ``None`` if an earlier run has done the source; the task must be dropped then. Raises
        ``StageContractError`` for a random id, which no later run could recognise.
        """
        refuse_random(key, "a later run could not tell which are done")
        if key.endswith("_0") and not self._warned_positional:
            self._warn_positional(key)
        if self._journal.is_done(key):
            self.skipped += 1
            return None
        return self._tracker.opened(key)

    def complete_batch(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        """Account for a complete batch and return the source of each output. See ``SourceTracker.moved_batch``."""
        return self._tracker.moved_batch(inputs, parents, ends=ends)

    def note_returned(self, inputs: Sequence[int], parents: Sequence[int]) -> None:
        """Note tasks that came out of the last stage. See ``SourceTracker.note_returned``."""
        self._tracker.note_returned(inputs, parents)

    def fail_source(self, source: int, reason: str) -> None:
        """Record that a task of the source failed for good, so a later run processes the source again.

        Call it in the same turn as the ``complete_batch`` that consumes the task, before or after it.
        """
        self._tracker.failed(source, reason)

    def fail_batch(self, inputs: Sequence[int], reason: str) -> None:
        """Record that a whole batch failed for good: its tasks are gone and their sources failed."""
        for source in dict.fromkeys(inputs):
            self._tracker.failed(source, reason)
        self._tracker.moved_batch(inputs, (), ends=True)

    def commit(self) -> bool:
        """Write what was completed since the last commit, in one transaction; return whether there was anything."""
        settled = self._tracker.settle()
        if settled.returned and self._delivery in (Delivery.AT_END, Delivery.STORED):
            self._finished |= dict.fromkeys(settled.returned)
            if self._delivery is Delivery.AT_END:
                done = tuple(key for key in settled.done if key not in self._finished)
                settled = Settled(settled.opened, done, settled.failed)
        if settled:
            self._journal.record(settled)
        return bool(settled)

    @property
    def is_stored(self) -> bool:
        """Whether what has come out of the last stage is stored already, whatever becomes of the tasks it returned."""
        return self._delivery in (Delivery.STORED, Delivery.STORED_AND_STREAMED)

    @property
    def start_note(self) -> str | None:
        """What to tell the user when the run begins."""
        if self._delivery is not Delivery.AT_END:
            return None
        return (
            "checkpoint: sources are recorded as done when the run has returned their tasks, at its end; "
            + self._remedy
        )

    @property
    def _remedy(self) -> str:
        return (
            f"if the last stage, {self._last_stage!r}, stores what it gets, set is_sink_stage = True in its class, "
            "and they are recorded as soon as they are done; or take the tasks as they come, from execute_iter()"
        )

    def end_early(self) -> str | None:
        """Take note that the run did not succeed, and return what its caller must know about the sources.

        Tasks that the caller did not receive, and that are stored nowhere, must be made again by the next run.
        """
        if self._delivery is Delivery.STREAMED:
            self._tracker.settle()
            return None
        with contextlib.suppress(CheckpointError):  # the run's own error is the one to raise
            self.commit()
        if self._delivery is Delivery.STORED_AND_STREAMED:
            return None
        count, keys = len(self._finished), abbreviated(tuple(self._finished))
        if not count:
            return None
        if self._delivery is Delivery.STORED:
            return (
                f"checkpoint: {count} source(s) were done before the run ended. Their tasks are not returned, neither "
                f"by this run nor by a later one, because the last stage, {self._last_stage!r}, is a sink that has "
                f"stored them: {keys}"
            )
        return (
            f"checkpoint: the tasks of {count} finished source(s) were not returned, so the next run processes these "
            f"sources again; {self._remedy}: {keys}"
        )

    def close(self, error: str | None = None) -> None:
        """Commit, record how the run ended, and release the folder. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        try:
            # If the run failed, its own error is the one to raise, not one about the journal.
            with contextlib.suppress(CheckpointError) if error else contextlib.nullcontext():
                self.commit()
                if error is None and self._delivery is Delivery.AT_END:
                    self._record_delivered()
                self._journal.finish_run(error or "done")
        finally:
            self._journal.close()

    def _record_delivered(self) -> None:
        """Record what was held back. A source may have been opened again since, and failed then."""
        self._journal.record(Settled(done=tuple(key for key in self._finished if not self._tracker.has_failed(key))))

    def _warn_positional(self, key: str) -> None:
        from loguru import logger

        self._warned_positional = True
        logger.warning(
            "checkpoint: source {} is identified by its position only. If the order of the inputs changes before the "
            "next run, that run skips the wrong ones. A task class with get_deterministic_id() prevents it.",
            key,
        )


def refuse_unresumable(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` if a stage declares that its outputs cannot be traced to sources."""
    not_resumable = [stage.name for stage in stages if not getattr(stage, "is_resumable", True)]
    if not_resumable:
        raise ConfigurationError(
            f"a checkpoint was asked for, but these stages are not resumable: {not_resumable}. Run without one, or "
            "set is_resumable=True if every output is made from the inputs of its own batch"
        )


def _seed_to_use(folder: str, earlier: int | None, own: int | None) -> int | None:
    """Return the run's ``task_seed``: its own, else that of the run before it."""
    from loguru import logger

    if own is None and earlier is not None:
        logger.info("checkpoint {!r}: task_seed={}, as in the run before", folder, earlier)
    elif own is not None and earlier is not None and own != earlier:
        logger.warning(
            "checkpoint {!r}: task_seed is {}, and was {} when the sources that are done were processed",
            folder,
            own,
            earlier,
        )
    return earlier if own is None else own


def _refuse_change(folder: str, changes: Sequence[str]) -> None:
    raise CheckpointMismatch(
        f"checkpoint {folder!r} was made by another pipeline, and its outputs would be mixed with this one's:\n"
        + _listed(changes)
        + "Give another folder, undo the change, or set accept_changed_pipeline=True to keep what is done"
    )


def _warn_of_change(folder: str, changes: Sequence[str]) -> None:
    from loguru import logger

    logger.warning(
        "checkpoint {!r} was made by another pipeline; what is done is kept as it is:\n{}", folder, _listed(changes)
    )


def _listed(changes: Sequence[str]) -> str:
    n_more = len(changes) - _MAX_SHOWN_DIFFERENCES
    lines = [*changes[:_MAX_SHOWN_DIFFERENCES], *([f"and {n_more} more"] if n_more > 0 else [])]
    return "".join(f"  {line}\n" for line in lines)
