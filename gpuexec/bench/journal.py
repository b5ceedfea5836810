"""The journal of a sweep: a line of JSON for what was asked, and one for the result of each trial.

A line is on the disk before the next trial begins, so whatever kills the sweep, ``--resume`` goes on from the last
trial that ended. If the end of a line is missing, the sweep was killed while it wrote; the line is dropped then, and
its trial is run again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuexec.bench.as_dict import plain
from gpuexec.bench.model import StageFigures, Trial, TrialResult, TrialStatus
from gpuexec.errors import SweepImpossible

NAME = "trials.jsonl"
SCHEMA, VERSION = "gpuexec-bench-trials", 1
HAS_SWEEP = "{} has a sweep already: go on with it by --resume, or name another folder"


class Journal:
    """The journal of one sweep, open for writing; no other process can open it meanwhile. ``close`` it.

    ``header``: the first line. ``results``: of the trials that have ended, in their order. Interrupted ones are not
    kept: they are run again.
    """

    def __init__(self, path: Path, fd: int, header: Mapping[str, Any], results: list[TrialResult]) -> None:
        self.path = path
        self.header = header
        self.results = results
        self._fd = fd

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Journal:
        """Begin a journal. Raises ``SweepImpossible`` if the folder has one, or cannot be written."""
        path = folder / NAME
        if folder.exists() and not folder.is_dir():
            raise SweepImpossible(f"{folder} is not a folder: name another one with --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = _open_locked(path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise SweepImpossible(HAS_SWEEP.format(folder)) from None
        except OSError as error:
            raise SweepImpossible(f"{folder} cannot be written: {error.strerror or error}") from error
        header = {"schema": SCHEMA, "version": VERSION, **header}
        journal = cls(path, fd, header, [])
        journal._append(header)
        _sync_folder(folder)
        return journal

    @classmethod
    def resume(cls, folder: Path) -> Journal:
        """Open the journal of a sweep that is to go on.

        Raises ``SweepImpossible`` if there is none, it is damaged, of a newer version, or another process writes it.
        """
        path = folder / NAME
        try:
            fd = _open_locked(path)
        except FileNotFoundError:
            raise SweepImpossible(f"{folder} has no sweep to go on with: there is no {NAME}") from None
        except OSError as error:
            raise SweepImpossible(f"{path} cannot be opened: {error.strerror or error}") from error
        try:
            header, results, size = _read(path)
            os.ftruncate(fd, size)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, header, results)

    def add(self, result: TrialResult) -> None:
        """Write the result of a trial. It is on the disk when this returns. Raises ``SweepImpossible``."""
        if result.status is TrialStatus.INTERRUPTED:
            return
        self._append(result_as_dict(result))
        self.results.append(result)

    def close(self) -> None:
        """Close the file, which unlocks it. Safe to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            size = os.fstat(self._fd).st_size
            try:
                view = memoryview(line)
                while view:
                    view = view[os.write(self._fd, view) :]
                os.fsync(self._fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise
        except OSError as error:
            raise SweepImpossible(
                f"{self.path} cannot be written: {error.strerror or error}. What is in it is kept: make room, and go "
                "on with --resume"
            ) from error


def read_journal(folder: Path) -> tuple[Mapping[str, Any], list[TrialResult]]:
    """Return the header and the results of a journal, which another process may be writing.

    Raises ``SweepImpossible``.
    """
    header, results, _ = _read(folder / NAME)
    return header, results


def result_as_dict(result: TrialResult) -> dict[str, Any]:
    """Return a result as plain values."""
    values: dict[str, Any] = plain(result)
    return values


def read_result(data: Mapping[str, Any]) -> TrialResult:
    """Return the result that `result_as_dict` made these values of. Raises ``KeyError`` or ``TypeError`` for others."""
    stages = tuple(StageFigures(**stage) for stage in data["stages"])
    fields = {**data, "trial": Trial(**data["trial"]), "status": TrialStatus(data["status"]), "stages": stages}
    return TrialResult(**{**fields, "marks": tuple(data["marks"])})


def _read(path: Path) -> tuple[Mapping[str, Any], list[TrialResult], int]:
    """Return header, results, and the size of the complete lines in bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SweepImpossible(f"{path} cannot be read: {error.strerror or error}") from error
    *lines, _ = content.split(b"\n")
    if not lines:
        raise SweepImpossible(f"{path.parent}: its sweep was killed before it began. Remove the folder, and begin anew")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line) if number == 1 else read_result(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SweepImpossible(f"{path} is damaged in line {number}: {error!r}") from error
    header, *results = entries
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise SweepImpossible(f"{path} is no journal of gpuexec bench")
    if header.get("version", 0) > VERSION:
        raise SweepImpossible(f"{path} was written by a newer gpuexec (format {header['version']}): use that one")
    return header, results, sum(len(line) + 1 for line in lines)


def _open_locked(path: Path, flags: int = 0) -> int:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SweepImpossible(f"{path.parent}: another process is running this sweep") from None
    except OSError:  # a file system without locks
        pass
    return fd


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
