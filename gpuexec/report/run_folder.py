"""Run folders: one for each run, with what it did.

    <UTC time>-<pipeline>-<run id>/
        report.json      the report, in the schema "gpuexec-report/1"; written anew while the run goes on
        report.html      the same, for people
        trace.json.gz    every batch, for Perfetto and chrome://tracing
        log.jsonl        what was printed, logged and said
        live.sock        only while the run goes on: `gpuexec top` attaches here
        lock             only while the run goes on, or if it was killed: the driver holds a lock on it

A folder can be read by its owner only. The kernel unlocks ``lock`` however the driver ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from gpuexec.private_folder import state_folder

REPORT, PAGE, TRACE, LOG, LOCK = "report.json", "report.html", "trace.json.gz", "log.jsonl", "lock"
OLDER_LOG = "log.1.jsonl"
AUTO = "auto"
KEEP = 200
KEEP_BYTES = 2_000_000_000

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)-(.+)-([0-9a-z]+)(?:-\d+)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_NAME_CHARS = 60
_REMOVED = ".removed-"
_YOUNG_S = 60.0  # a folder is made before it is locked
_TRIES = 100


class RunFolder:
    """The folder of a run that goes on; ``path`` is where it is. For one thread. Methods raise ``OSError``."""

    def __init__(self, parent: Path, name: str) -> None:
        self.path = _new_folder(parent, name)
        try:
            self._lock_fd = _locked(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of an older one of this name."""
        write_whole(self.path / name, content)

    def close(self) -> None:
        """Give the lock up, and say by that that the run has ended and was not killed."""
        try:
            (self.path / LOCK).unlink(missing_ok=True)
        finally:
            os.close(self._lock_fd)


def write_whole(path: Path, content: bytes) -> None:
    """Write a private file, in place of an older one: readers see one of the two, and whole. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, content)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_all(fd: int, content: bytes) -> int:
    """Write bytes at a file's position, all of them; return how many. Raises ``OSError``."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    return len(content)


def folder_name(pipeline: str, run_id: str, posix_time: float) -> str:
    """Return the name of a run's folder: only letters, digits, and ``._-``, and not too long."""
    moment = datetime.fromtimestamp(posix_time, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z-{name_in_folder(pipeline)}-{run_id}"


def name_in_folder(pipeline: str) -> str:
    """Return a pipeline's name as the names of its runs' folders have it."""
    return _UNSAFE.sub("_", pipeline)[:_MOST_NAME_CHARS].strip("._-") or "pipeline"


def parent_folder(run_dir: str) -> Path:
    """Return the folder that the option ``run_dir`` names; make it if it is missing.

    Raises ``OSError`` if it cannot be made or, by default, is another user's; ``RuntimeError`` if there is no home.
    """
    if run_dir == AUTO:
        return state_folder("runs")
    path = Path(run_dir).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def run_folders(parent: Path) -> list[Path]:
    """Return the run folders in a folder, the oldest first; nothing if there is no such folder."""
    try:
        with os.scandir(parent) as entries:
            names = [e.name for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [parent / name for name in sorted(names)]


def name_parts(folder: Path) -> tuple[str, str, str] | None:
    """Return time, pipeline and run id of a folder as its name tells them; ``None`` if it is not named so."""
    match = _NAME.fullmatch(folder.name)
    return (match[1], match[2], match[3]) if match else None


def is_live(folder: Path) -> bool:
    """Return whether the run of a folder goes on: its driver holds the lock."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # which several processes may ask at the same time
    except BlockingIOError:
        return True
    except OSError:
        return _owner_lives(fd)
    finally:
        os.close(fd)
    return False


def was_killed(folder: Path) -> bool:
    """Return whether the run of a folder was killed: it left its lock, and nobody holds it."""
    return not is_live(folder) and (folder / LOCK).exists()  # in this order: a run that ends removes it


def size_of(folder: Path) -> int:
    """Return the size of a folder's files in bytes."""
    with os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)


def prune(
    parent: Path, *, keep: int = KEEP, keep_bytes: int | None = KEEP_BYTES, own: Path | None = None
) -> list[Path]:
    """Remove the oldest run folders until ``keep`` of them with ``keep_bytes`` are left; return those removed.

    Never the folder of a run that goes on, nor ``own``, which is not the newest if the clock was set back, nor what is
    no run folder. What cannot be removed stays. ``keep_bytes`` of ``None``: any number, which saves asking for the
    sizes. Several programs may do this at once.
    """
    folders = run_folders(parent)
    surplus = set(folders[: max(0, len(folders) - keep)])
    if keep_bytes is not None:
        surplus |= _beyond(folders, keep_bytes)
    removed = []
    for folder in folders:
        with contextlib.suppress(OSError):  # another program has removed it, or nobody can
            if folder in surplus and folder != own and not is_live(folder) and not _is_young(folder):
                folder.rename(parent / f"{_REMOVED}{folder.name}")  # so it is never seen half removed
                removed.append(folder)
    for hidden in parent.glob(f"{_REMOVED}*"):  # also of a program that was killed here
        shutil.rmtree(hidden, ignore_errors=True)
    return removed


def _beyond(folders: list[Path], keep_bytes: int) -> set[Path]:
    """Return the folders that are left when the newest ones of this size together are taken."""
    total = 0
    for at in range(len(folders) - 1, -1, -1):
        with contextlib.suppress(OSError):  # another run removes it
            total += size_of(folders[at])
        if total > keep_bytes:
            return set(folders[: at + 1][: len(folders) - 1])  # the newest stays, however large
    return set()


def _is_young(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime < _YOUNG_S and not (folder / REPORT).exists()


def _new_folder(parent: Path, name: str) -> Path:
    for candidate in _candidates(name):
        path = parent / candidate
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{parent / name} and {_TRIES} further folders exist already")


def _locked(folder: Path) -> int:
    """Make the lock, and return its descriptor. The file appears when it is locked: nobody may find it unlocked."""
    temporary = folder / f".{LOCK}.new"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the process id must do
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(fd, json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode())
        temporary.rename(folder / LOCK)
    except BaseException:
        os.close(fd)
        temporary.unlink(missing_ok=True)
        raise
    return fd


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in range(2, _TRIES + 2):
        yield f"{name}-{number}"


def _owner_lives(fd: int) -> bool:
    try:
        owner = json.loads(os.pread(fd, 4096, 0))
        return owner["host"] != os.uname().nodename or Path(f"/proc/{owner['pid']}").exists()
    except (ValueError, KeyError, TypeError):
        return False
