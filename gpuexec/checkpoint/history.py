"""Read the journal of a checkpoint, even while a run writes it. Nothing in it is changed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gpuexec.checkpoint.journal import (
    FILE_NAME,
    LOCK_NAME,
    SUBFOLDER,
    check_header,
    columns_of_runs,
    is_locked,
    translated_sqlite_errors,
)
from gpuexec.checkpoint.snapshot import snapshot
from gpuexec.errors import CheckpointError

RUNNING = "running"
_READINGS = 3  # of a journal whose run begins or ends meanwhile
_RUNS = "SELECT id, started, ended, outcome, pid, host, digest, pipeline, shard FROM runs ORDER BY id"
INTERRUPTED = "interrupted"  # no end was recorded, and no process holds the lock


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of sources by state."""

    done: int = 0
    failed: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run; times in POSIX seconds. ``ended`` is ``None`` while it runs and if it was interrupted.

    ``outcome``: 'done', an error in a line, RUNNING or INTERRUPTED. ``sources`` counts those whose current state was
    recorded by this run. ``shard``: "K/N", ``None`` if the run was for all sources.
    """

    id: int
    started: float
    ended: float | None
    outcome: str
    pid: int
    host: str
    digest: str
    stages: tuple[str, ...]
    sources: Counts
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class FailedSource:
    """A source that a run could not complete; ``at`` is the time of the failure in POSIX seconds."""

    key: str
    reason: str
    run: int
    at: float


@dataclass(frozen=True, slots=True)
class History:
    """The content of a journal. ``failures`` has the latest, at most as many as were asked for, and ``unfinished`` the
    keys of as many sources that a run has begun and none has finished."""

    runs: tuple[RunRecord, ...]
    sources: Counts
    failures: tuple[FailedSource, ...]
    unfinished: tuple[str, ...] = ()


def read_history(folder: str | os.PathLike[str], *, max_failures: int = 10) -> History:
    """Read a checkpoint folder. Raises ``CheckpointError`` if it has no checkpoint or cannot be read."""
    for _ in range(_READINGS):
        history, was_running = _read_once(folder, max_failures)
        if is_locked(Path(folder) / SUBFOLDER) == was_running:
            break  # else a run has begun or ended in between, and would be told as interrupted
    return history


def _read_once(folder: str | os.PathLike[str], max_failures: int) -> tuple[History, bool]:
    """Return what is in a folder, and whether a run was going on when it was looked at."""
    subfolder = Path(folder) / SUBFOLDER
    path = subfolder / FILE_NAME
    try:
        exists, is_running = path.is_file(), is_locked(subfolder)
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be read: {error.strerror}") from error
    if not exists:
        what = "has no checkpoint" if Path(folder).is_dir() else "is not a folder"
        raise CheckpointError(
            f"{str(folder)!r} {what}: give the folder that a run had as checkpoint_path or as the option 'checkpoint'"
        )
    elsewhere = is_running and not _is_held_here(subfolder)
    with translated_sqlite_errors(path), _opened(path, elsewhere=elsewhere) as db:
        if check_header(db, path) == 0:
            return History((), Counts(), ()), is_running  # the first run was killed while making it
        return _read(db, max_failures, is_running=is_running), is_running


@contextlib.contextmanager
def _opened(path: Path, *, elsewhere: bool) -> Iterator[sqlite3.Connection]:
    """Open the journal to read it; a copy, if a process on another machine writes it."""
    with contextlib.ExitStack() as stack:
        if elsewhere:
            path = stack.enter_context(snapshot(path))
        yield stack.enter_context(closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)))


def _is_held_here(subfolder: Path) -> bool:
    """Whether the run that holds the lock is on this machine, as the lock's text says."""
    text = (subfolder / LOCK_NAME).read_text(errors="replace").strip()
    return not text or text.endswith(f" on {socket.gethostname()}")


def _read(db: sqlite3.Connection, most: int, *, is_running: bool) -> History:
    db.execute("BEGIN")  # so that all queries see the same state
    rows = db.execute(_RUNS if "shard" in columns_of_runs(db) else _RUNS.replace("shard", "NULL")).fetchall()
    by_run: dict[int, dict[str, int]] = {}
    for run, state, count in db.execute("SELECT run, state, count(*) FROM sources GROUP BY run, state"):
        by_run.setdefault(run, {})[state] = count
    failures = tuple(
        FailedSource(*row)
        for row in db.execute(
            "SELECT key, reason, run, at FROM sources WHERE state = 'failed' ORDER BY at DESC, key LIMIT ?", (most,)
        )
    )
    unfinished = db.execute("SELECT key FROM sources WHERE state = 'pending' ORDER BY key LIMIT ?", (most,))
    records = tuple(_record(row, by_run.get(row[0], {}), is_running=is_running and row is rows[-1]) for row in rows)
    total = Counts(**{s: sum(counts.get(s, 0) for counts in by_run.values()) for s in ("done", "failed", "pending")})
    return History(records, total, failures, tuple(key for (key,) in unfinished))


def _record(
    row: tuple[int, float, float | None, str | None, int, str, str, str, str | None],
    counts: dict[str, int],
    *,
    is_running: bool,
) -> RunRecord:
    number, started, ended, outcome, pid, host, digest, pipeline, shard = row
    return RunRecord(
        id=number,
        started=started,
        ended=ended,
        outcome=outcome or (RUNNING if is_running else INTERRUPTED),
        pid=pid,
        host=host,
        digest=digest,
        stages=tuple(stage["name"] for stage in json.loads(pipeline)),
        sources=Counts(**counts),
        shard=shard,
    )
