"""The folder of a deduplication: where everything is, and what may be continued."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuexec.dedup.errors import OutputInUse, OutputNotWritten
from gpuexec.dedup.files import read_json, write_json
from gpuexec.dedup.inputs import Block, Source, blocks_of
from gpuexec.dedup.keys import KeyFolder
from gpuexec.dedup.labels import Labels
from gpuexec.dedup.settings import Settings
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record

_VERSION = 1  # of the files in the folder
_PLAN, _SUMMARY, _LOCK, _WORK = "plan.json", "summary.json", ".lock", "work"
_GROUPS, _DOCUMENTS = "groups", "documents"
_IDS = {False: "ExactDuplicateIds", True: "FuzzyDuplicateIds"}  # by whether the method is fuzzy


class Workplace(Record):
    """Where one deduplication works. ``shares``: into how many parts the keys of each band are cut."""

    output: Path
    settings: Settings
    shares: int
    block_count: int

    @property
    def keys(self) -> KeyFolder:
        """The keys of all documents; where they have ids, the last band has the keys of these."""
        bands = self.settings.method.keys_per_document + (self.settings.id is not None)
        return KeyFolder(self.work / "keys", bands, self.shares)

    @property
    def work(self) -> Path:
        """What is only needed until the end."""
        return self.output / _WORK

    @property
    def share_count(self) -> int:
        """How many shares there are to compare."""
        return self.keys.bands * self.shares

    def has_ids(self, share: int) -> bool:
        """Return whether the keys of a share are those of ids."""
        return share >= self.settings.method.keys_per_document * self.shares

    def ids_path(self, block: int) -> Path:
        """Return the file with the ids of a block's documents."""
        return self.work / "ids" / f"{block:08d}.parquet"

    def edges_path(self, share: int) -> Path:
        """Return the file with the edges of a share: pairs of places."""
        return self.work / "edges" / f"{share:08d}.pairs"

    @property
    def labels_path(self) -> Path:
        """The file with the group of each document that has a duplicate."""
        return self.work / "labels.npy"

    def labels(self) -> Labels:
        """Return the groups."""
        return Labels(self.labels_path)

    @property
    def ids_folder(self) -> Path:
        """The ids of the documents to remove."""
        return self.output / _IDS[self.settings.method.fuzzy]

    @property
    def groups_folder(self) -> Path:
        """All documents that have a duplicate, with the number of their group."""
        return self.output / _GROUPS

    @property
    def documents_folder(self) -> Path:
        """The documents that remain."""
        return self.output / _DOCUMENTS

    def document_path(self, block: Block) -> Path:
        """Return where the remaining documents of a block go: its file's name, with a number if it has several."""
        name = Path(block.source.name)
        stem = name.name[: name.name.index(".", 1)]
        number = "" if block.part is None else f".part-{block.part:06d}"
        return self.documents_folder / name.parent / f"{stem}{number}{name.name[len(stem) :]}"

    def summary(self) -> dict[str, Any] | None:
        """Return what a run that has ended noted, ``None`` if none has."""
        noted: dict[str, Any] | None = read_json(self.output / _SUMMARY)
        return noted

    def finish(self, summary: dict[str, Any], *, keep_work: bool) -> None:
        """Note the end, and remove what was needed until then."""
        for folder in (self.ids_folder, self.groups_folder, self.documents_folder):
            for part in folder.rglob("*.part"):  # of a process that was killed while it wrote
                part.unlink(missing_ok=True)
        write_json(self.output / _SUMMARY, summary)
        self.tidy(keep_work=keep_work)

    def tidy(self, *, keep_work: bool) -> None:
        """Remove the work folder, unless it is to be kept."""
        if not keep_work:
            shutil.rmtree(self.work, ignore_errors=True)


class Job(Record):
    """A workplace and its blocks. ``resumed``: a run before this one has left work there."""

    workplace: Workplace
    blocks: list[Block]
    resumed: bool


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes from the folder; make it if it is missing. The lock ends with this process."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK).open("w")
    except OSError as error:
        raise OutputNotWritten(f"the output folder {output} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputInUse(f"another process is writing to {output}: wait for it, or name another folder") from error
        yield


def job_in(
    output: Path, settings: Settings, sources: Sequence[Source], *, block_bytes: int, shares: int, overwrite: bool
) -> Job:
    """Return the job in a folder: the one that is there if it is the same, else a new one.

    Blocks and shares are those of the job that is there. Raises `OutputInUse` if it has other settings or documents and
    may not be overwritten.
    """
    plan = {
        "version": _VERSION,
        "settings": _as_dict(settings),
        "files": [list(source.to_tuple()) for source in sources],
    }
    found = read_json(output / _PLAN)
    if found is not None and not overwrite:
        difference = _difference(found, plan)
        if difference and _has_work(output):
            raise OutputInUse(
                f"{output} has the results of another deduplication: {difference}. Name another folder, or set "
                "overwrite=True (--overwrite) to replace them"
            )
        overwrite = bool(difference) or _results_are_gone(output, settings)
    goes_on = found is not None and not overwrite
    if goes_on:
        block_bytes, shares = found["block_bytes"], found["shares"]
    blocks = blocks_of(sources, block_bytes)
    workplace = Workplace(output, settings, shares, len(blocks))
    if settings.remove:
        _check_names(workplace, blocks)
    if not goes_on:
        _clear(output, overwrite=overwrite)
        write_json(output / _PLAN, {**plan, "block_bytes": block_bytes, "shares": shares})
    return Job(workplace, blocks, goes_on)


def _check_names(workplace: Workplace, blocks: Sequence[Block]) -> None:
    """Raise ``ConfigurationError`` if two blocks would be written to the same file."""
    taken: dict[Path, Block] = {}
    for block in blocks:
        path = workplace.document_path(block)
        other = taken.setdefault(path, block)
        if other is not block:
            raise ConfigurationError(
                f"what stays of {other.source.path} and of {block.source.path} would go to the same file {path}: "
                "rename one of them, or set block_bytes to more than the size of the larger one"
            )


def _has_work(output: Path) -> bool:
    """Return whether a run has got anywhere; one that has failed at its first file may begin with other settings."""
    return (output / _SUMMARY).exists() or any((output / _WORK / "keys").glob("*.json"))


def _results_are_gone(output: Path, settings: Settings) -> bool:
    """Return whether somebody has removed results of a run that has ended."""
    results = [_IDS[settings.method.fuzzy], _GROUPS, *([_DOCUMENTS] if settings.remove else [])]
    return (output / _SUMMARY).exists() and not all((output / name).exists() for name in results)


def _as_dict(settings: Settings) -> dict[str, Any]:
    plain = dataclasses.asdict(settings)
    return {**plain.pop("method"), **plain}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    if found.get("version") != wanted["version"]:
        return f"they are of version {found.get('version')} of these files, this is {wanted['version']}"
    for name, value in wanted["settings"].items():
        if found["settings"].get(name) != value:
            return f"{name} was {found['settings'].get(name)!r} and is {value!r}"
    before, now = ({file[0]: file for file in plan["files"]} for plan in (found, wanted))
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            change = "changed" if path in before and path in now else "not read then" if path in now else "not read now"
            return f"{path} is {change}" if change != "changed" else f"{path} was changed since"
    return None


def _clear(output: Path, *, overwrite: bool) -> None:
    """Remove what a deduplication writes; nothing else that is in the folder."""
    (output / _PLAN).unlink(missing_ok=True)  # first, so that a half-removed folder is not taken for one to go on with
    for name in (_SUMMARY, _WORK, _GROUPS, _DOCUMENTS, *_IDS.values(), *_ID_GENERATORS):
        path = output / name
        if not path.exists():
            continue
        if not overwrite:
            raise OutputInUse(f"{path} exists already, and no deduplication of ours wrote it: name another folder")
        path.unlink() if path.is_file() else shutil.rmtree(path)


_ID_GENERATORS = ("exact_id_generator.json", "fuzzy_id_generator.json")
