"""What several checkpoint folders say together: what is done, and what is missing. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum

from gpuexec.checkpoint.history import INTERRUPTED, RUNNING, Counts, History
from gpuexec.naming import abbreviated
from gpuexec.records import Record
from gpuexec.shards import Shard

_ENDED_FROM_OUTSIDE = ("KeyboardInterrupt", "SystemExit", "RunCancelled")  # by Ctrl-C, a signal, or cancel()


class FolderState(StrEnum):
    """How far the runs of a folder have come."""

    DONE = "done"  # its last run went to its end, and every source is done
    LEFT = "sources left"  # its last run went to its end, and sources failed or were not finished
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # ended by a signal or cancelled; or killed, so that no end was recorded
    FAILED = "failed"  # its last run ended with an error
    NOT_BEGUN = "not begun"  # the folder is there, and no run in it
    UNREADABLE = "unreadable"


class Folder(Record):
    """A checkpoint folder. ``problem``: why it is not readable; ``history`` is ``None`` then, and before any run."""

    path: str
    state: FolderState
    shard: Shard | None = None
    history: History | None = None
    problem: str | None = None

    @property
    def digest(self) -> str | None:
        """What identifies its pipeline; ``None`` before any run."""
        return self.history.runs[-1].digest if self.history is not None and self.history.runs else None

    @property
    def sources(self) -> Counts:
        """Its sources by state; all 0 if they are not known."""
        return self.history.sources if self.history is not None else Counts()


class Overview(Record):
    """What the folders say together.

    ``missing``: the shards that no folder belongs to. ``doubts``: why the folders do not tell whether all is done.
    """

    folders: tuple[Folder, ...]
    sources: Counts
    missing: tuple[Shard, ...]
    doubts: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether everything is done, for certain."""
        return not self.missing and not self.doubts and all(f.state is FolderState.DONE for f in self.folders)

    @property
    def to_run(self) -> tuple[Shard, ...]:
        """The shards that must run, for the first time or again: all that are neither done nor running."""
        at_rest = (FolderState.DONE, FolderState.RUNNING, FolderState.UNREADABLE)
        left = {folder.shard for folder in self.folders if folder.shard is not None and folder.state not in at_rest}
        return tuple(sorted({*left, *self.missing}, key=lambda shard: (shard.count, shard.index)))


def state_of(history: History) -> FolderState:
    """Return how far the runs of a folder have come."""
    if not history.runs:
        return FolderState.NOT_BEGUN
    outcome = history.runs[-1].outcome
    if outcome in (RUNNING, INTERRUPTED):
        return FolderState(outcome)
    if outcome.startswith(_ENDED_FROM_OUTSIDE):
        return FolderState.INTERRUPTED
    if outcome != "done":
        return FolderState.FAILED
    return FolderState.LEFT if history.sources.failed + history.sources.pending else FolderState.DONE


def overview(folders: Sequence[Folder]) -> Overview:
    """Judge the folders together. Those of shards come first, in the order of their numbers."""
    ordered = sorted(folders, key=lambda f: (f.shard is None, f.shard and (f.shard.count, f.shard.index), f.path))
    each = [folder.sources for folder in ordered]
    return Overview(
        folders=tuple(ordered),
        sources=Counts(sum(c.done for c in each), sum(c.failed for c in each), sum(c.pending for c in each)),
        missing=tuple(_missing(ordered)),
        doubts=tuple(_doubts(ordered)),
    )


def _missing(folders: Sequence[Folder]) -> Iterator[Shard]:
    present = {folder.shard for folder in folders}
    for count in sorted({shard.count for shard in present if shard is not None}):
        yield from (shard for index in range(count) if (shard := Shard(index, count)) not in present)


def _doubts(folders: Sequence[Folder]) -> Iterator[str]:
    by_pipeline: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        if folder.digest is not None:
            by_pipeline[folder.digest].append(folder.path)
    if len(by_pipeline) > 1:
        which = "; ".join(f"{digest}: {abbreviated(paths)}" for digest, paths in by_pipeline.items())
        yield f"the folders are of {len(by_pipeline)} different pipelines or settings ({which}): look at each by itself"
    counts = sorted({folder.shard.count for folder in folders if folder.shard is not None})
    if len(counts) > 1:
        yield (
            f"the folders are of different numbers of shards ({', '.join(map(str, counts))}), which deal the sources "
            "out in different ways: look at those of one number only"
        )
    if counts and any(folder.shard is None for folder in folders):
        whole = [folder.path for folder in folders if folder.shard is None and folder.state is not _UNREADABLE]
        if whole:
            yield f"beside folders of shards there are some of runs without a shard: {abbreviated(whole)}"
    for shard, times in Counter(folder.shard for folder in folders if folder.shard is not None).items():
        if times > 1:
            paths = [folder.path for folder in folders if folder.shard == shard]
            yield f"{times} folders are of shard {shard}, whose sources were then processed more than once: {paths}"
    unreadable = [folder.path for folder in folders if folder.state is _UNREADABLE]
    if unreadable:
        yield f"{len(unreadable)} folder(s) cannot be read, so what is done there is unknown: {abbreviated(unreadable)}"


_UNREADABLE = FolderState.UNREADABLE
