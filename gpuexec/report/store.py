"""Finds run folders and reads what is in them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from gpuexec.errors import RunNotFound
from gpuexec.hardware.host import name_of_user
from gpuexec.naming import abbreviated
from gpuexec.private_folder import state_path
from gpuexec.report import run_folder
from gpuexec.report.bounds import finite, shard_of

SCHEMA_NAME, SCHEMA_VERSION = "gpuexec-report", 1
_MOST_DIGITS = 9  # of a version


class Outcome(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    UNKNOWN = "unknown"  # it has ended, but how could not be written, as on a full disk
    UNREADABLE = "unreadable"


class RunSummary(NamedTuple):
    """A run in a few words.

    ``started_at``: POSIX time in seconds. ``seconds``: how long it took, or has taken so far. ``size_bytes``: of its
    files. ``shard``: which part of the sources it ran, as ``"3/8"``, if not all. What is not known is ``None``.
    ``problem``: why the report cannot be read.
    """

    folder: str
    run_id: str
    pipeline: str
    outcome: str
    started_at: float | None
    seconds: float | None
    tasks_in: int | None
    tasks_out: int | None
    size_bytes: int | None
    shard: str | None = None
    error: str | None = None
    problem: str | None = None


class RunFolderReader:
    """One run folder. ``path`` is where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def report_file(self) -> Path:
        """Return where the report is."""
        return self.path / run_folder.REPORT

    @property
    def page(self) -> Path:
        """Return where the page is."""
        return self.path / run_folder.PAGE

    @property
    def trace(self) -> Path:
        """Return where the trace is."""
        return self.path / run_folder.TRACE

    @property
    def is_live(self) -> bool:
        """Return whether the run goes on."""
        return run_folder.is_live(self.path)

    @property
    def problem(self) -> str | None:
        """Return why no file in the folder can be opened, such as that it is another user's; ``None`` if they can."""
        try:
            self.report_file.stat()
        except FileNotFoundError:
            return None if self.path.is_dir() else f"there is no run folder {self.path}"
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}{_owner_of(self.path)}"
        return None

    def report(self) -> dict[str, Any]:
        """Return the report, in the schema of ``report.json``. Raises ``RunNotFound`` if it cannot be read."""
        if self.problem is not None:
            raise RunNotFound(self.problem)
        if not self.report_file.exists() and (live := self.is_live) | run_folder.was_killed(self.path):
            what = "has just begun" if live else "was killed before its first report was written"
            raise RunNotFound(f"{self.path}: this run {what}. Its log and its trace may tell more")
        return load_report(self.report_file)

    def outcome(self, report: dict[str, Any]) -> Outcome:
        """Return what became of the run whose report this is."""
        if not report.get("ended"):
            if self.is_live:
                return Outcome.RUNNING
            if run_folder.was_killed(self.path):
                return Outcome.KILLED
            with contextlib.suppress(RunNotFound):
                report = self.report()  # it may have ended since the report was read
            if not report.get("ended"):
                return Outcome.UNKNOWN
        if report.get("interrupted"):
            return Outcome.INTERRUPTED
        return Outcome.OK if report.get("ok") else Outcome.FAILED

    def summary(self) -> RunSummary:
        """Return the run in a few words, also if its report is missing or damaged."""
        _, pipeline, run_id = run_folder.name_parts(self.path) or ("", self.path.name, "")
        size = _size(self.path)
        try:
            report = self.report()
        except RunNotFound as error:
            unreadable = self.problem is not None or self.report_file.exists()
            outcome = Outcome.UNREADABLE if unreadable else self.outcome({})
            return RunSummary(
                str(self.path), run_id, pipeline, outcome.value, None, None, None, None, size, problem=str(error)
            )
        return RunSummary(
            folder=str(self.path),
            run_id=str(report.get("run_id") or run_id),
            pipeline=str(report.get("pipeline") or pipeline),
            outcome=self.outcome(report).value,
            started_at=finite(report.get("started_at")),
            seconds=finite(report.get("wall_s")) or finite(report.get("elapsed_s")),
            tasks_in=_count(report.get("tasks_in")),
            tasks_out=_count(report.get("tasks_out")),
            size_bytes=size,
            shard=shard_of(report),
            error=None if report.get("error") is None else str(report["error"]),
        )


def load_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report in a file, or in the run folder, ``path``.

    Raises ``RunNotFound`` if it is missing, damaged, no report, or of a version that this one cannot read.
    """
    file = Path(path)
    if file.is_dir():
        file /= run_folder.REPORT
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise RunNotFound(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise RunNotFound(f"{file} is damaged: it is not JSON ({error}). The run has to be made again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    name, _, version = str(schema).partition("/")
    if name != SCHEMA_NAME or not (version.isascii() and version.isdecimal() and len(version) <= _MOST_DIGITS):
        raise RunNotFound(
            f"{file} is no report of gpuexec: its schema is {schema!r}, not {SCHEMA_NAME}/{SCHEMA_VERSION}"
        )
    if int(version) > SCHEMA_VERSION:
        maker = document.get("gpuexec", "?")
        raise RunNotFound(
            f"{file} has schema {schema}, and this gpuexec reads up to {SCHEMA_NAME}/{SCHEMA_VERSION}: "
            f"gpuexec {maker} or newer is needed to read it"
        )
    result: dict[str, Any] = document
    return result


def find_run(run: str | os.PathLike[str] | None = None, run_dir: str | None = None) -> RunFolderReader:
    """Return the run that ``run`` names: an id, the beginning of one, a folder, or ``None`` for the newest.

    ``run_dir``: the folder of run folders to look in (default: where runs are kept by default). Raises ``RunNotFound``
    if there is none, or more than one.
    """
    if run is not None and _is_path(run):
        return RunFolderReader(Path(run).absolute())
    parent = parent_of_runs(run_dir)
    folders = _folders_in(parent)
    if not folders:
        raise RunNotFound(f"there is no run in {parent}. Runs are kept there unless run_dir=… names another folder")
    if run is None:
        return RunFolderReader(folders[-1])
    return RunFolderReader(_only_one(str(run), folders, parent))


def list_runs(run_dir: str | None = None) -> list[RunFolderReader]:
    """Return all runs in a folder, the oldest first; an empty list if there are none.

    Raises ``RunNotFound`` if the folder cannot be read.
    """
    return [RunFolderReader(path) for path in _folders_in(parent_of_runs(run_dir))]


def parent_of_runs(run_dir: str | None) -> Path:
    """Return the folder of run folders, without making it. Raises ``RunNotFound`` if there is no home directory."""
    if run_dir is not None and run_dir != run_folder.AUTO:
        return Path(run_dir).absolute()
    try:
        return state_path("runs")
    except RuntimeError as error:
        raise RunNotFound(f"no runs are kept, since there is no home directory ({error}). Name their folder") from error


def _folders_in(parent: Path) -> list[Path]:
    try:
        return run_folder.run_folders(parent)
    except OSError as error:
        raise RunNotFound(f"{parent} cannot be read: {error.strerror or error}{_owner_of(parent)}") from error


def _owner_of(path: Path) -> str:
    """Return whose a file is, as an addition to a message; nothing if it is this user's, or that is not known."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    if owner == os.geteuid():
        return ""
    name = name_of_user(owner)
    return f". It belongs to the user with id {owner}" if name is None else f". It belongs to user {name}"


def _only_one(run: str, folders: list[Path], parent: Path) -> Path:
    by_rule: list[Callable[[Path], bool]] = [
        lambda folder: folder.name == run or _id_of(folder) == run,
        lambda folder: _id_of(folder).startswith(run),
        lambda folder: folder.name.startswith(run),
    ]
    for rule in by_rule:
        found = [folder for folder in folders if rule(folder)]
        if len(found) == 1:
            return found[0]
        if found:
            names = abbreviated([folder.name for folder in found])
            raise RunNotFound(f"{run!r} is the beginning of {len(found)} runs: {names}. Give more of the id")
    newest = abbreviated([_id_of(folder) for folder in reversed(folders)])
    raise RunNotFound(
        f"there is no run {run!r} in {parent}; there are {newest} (newest first; `gpuexec runs` lists them)"
    )


def _id_of(folder: Path) -> str:
    parts = run_folder.name_parts(folder)
    return parts[2] if parts else folder.name


def _is_path(run: str | os.PathLike[str]) -> bool:
    if isinstance(run, os.PathLike) or os.sep in run or run in (".", ".."):
        return True
    return os.path.exists(os.path.join(run, run_folder.LOG))  # noqa: PTH110, PTH118 - also for names no file can have


def _size(path: Path) -> int | None:
    try:
        return run_folder.size_of(path)
    except OSError:
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
