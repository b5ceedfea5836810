"""Reads a checkpoint's journal, also while a run writes it. Changes nothing in it."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gpuexec.checkpoint.journal import FILE_NAME, SUBFOLDER, check_header, is_locked, translated_sqlite_errors
from gpuexec.errors import CheckpointError

RUNNING = "running"
INTERRUPTED = "interrupted"  # no end was recorded, and nobody holds the lock


@dataclass(frozen=True, slots=True)
class Counts:
    """Sources by state."""

    done: int = 0
    failed: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run; times in POSIX seconds, ``ended`` is ``None`` while it runs and where it was interrupted.

    ``outcome``: 'done', an error in a line, RUNNING or INTERRUPTED. ``sources``: those whose present state
    comes from this run.
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


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that a run could not complete."""

    key: str
    reason: str
    run: int
    at: float


@dataclass(frozen=True, slots=True)
class History:
    """What a journal says. ``failures`` has the latest, at most as many as were asked for."""

    runs: tuple[RunRecord, ...]
    sources: Counts
    failures: tuple[Failure, ...]


def read_history(folder: str | os.PathLike[str], *, max_failures: int = 10) -> History:
    """Read a checkpoint folder. Raises ``CheckpointError`` if there is none or it cannot be read."""
    place = Path(folder) / SUBFOLDER
    path = place / FILE_NAME
    try:
        there, going = path.is_file(), is_locked(place)
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be read: {error.strerror}") from error
    if not there:
        what = "has no checkpoint" if Path(folder).is_dir() else "is no folder"
        raise CheckpointError(
            f"{str(folder)!r} {what}: give the folder that a run got as checkpoint_path or as the option 'checkpoint'"
        )
    with (
        translated_sqlite_errors(path),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
    ):
        if check_header(db, path) == 0:
            return History((), Counts(), ())  # its first run was killed while making it
        db.execute("BEGIN")  # all that follows is of one moment
        runs = db.execute("SELECT id, started, ended, outcome, pid, host, digest, pipeline FROM runs ORDER BY id")
        rows = runs.fetchall()
        by_run: dict[int, dict[str, int]] = {}
        for run, state, count in db.execute("SELECT run, state, count(*) FROM sources GROUP BY run, state"):
            by_run.setdefault(run, {})[state] = count
        failures = tuple(
            Failure(*row)
            for row in db.execute(
                "SELECT key, reason, run, at FROM sources WHERE state = 'failed' ORDER BY at DESC, key LIMIT ?",
                (max_failures,),
            )
        )
    records = tuple(_record(row, by_run.get(row[0], {}), going=going and row is rows[-1]) for row in rows)
    total = Counts(**{s: sum(counts.get(s, 0) for counts in by_run.values()) for s in ("done", "failed", "pending")})
    return History(records, total, failures)


def _record(
    row: tuple[int, float, float | None, str | None, int, str, str, str], counts: dict[str, int], *, going: bool
) -> RunRecord:
    number, started, ended, outcome, pid, host, digest, pipeline = row
    return RunRecord(
        id=number,
        started=started,
        ended=ended,
        outcome=outcome or (RUNNING if going else INTERRUPTED),
        pid=pid,
        host=host,
        digest=digest,
        stages=tuple(stage["name"] for stage in json.loads(pipeline)),
        sources=Counts(**counts),
    )
