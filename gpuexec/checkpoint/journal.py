"""The journal of a checkpoint: which runs there were, and what became of every source.

    FOLDER/.gpuexec/journal.sqlite3   the journal (with SQLite's -wal and -shm beside it while it is open)
    FOLDER/.gpuexec/lock              held by the one run that writes; its text says which process that is

Why WAL and ``synchronous=NORMAL``: a committed transaction is in the operating system's hands, so no end of
our process can undo it, and a commit costs less than 0.1 ms. Only a power cut can undo the last ones. They are
completions, whose sources are then processed again, so the promise holds; an fsync for each would buy
nothing, since the stage's own output files have none either. The file itself stays consistent in any case.

Why flock and not SQLite's own lock: it lasts the whole run while readers go on, it is refused at once, and
the kernel drops it when the process ends, however that happens. A process forked from the driver without
exec shares it, and keeps it until it has ended too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from gpuexec.core.sources import Settled
from gpuexec.errors import CheckpointError

SUBFOLDER = ".gpuexec"
FILE_NAME = "journal.sqlite3"
LOCK_NAME = "lock"
APPLICATION_ID = 0x67707865  # "gpxe", in the file's header
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    started REAL NOT NULL,  -- POSIX seconds
    ended REAL,             -- NULL: running, or interrupted
    outcome TEXT,           -- 'done', or the error in a line
    digest TEXT NOT NULL,   -- of the pipeline
    pipeline TEXT NOT NULL, -- its fingerprint, JSON
    pid INTEGER NOT NULL,
    host TEXT NOT NULL
);
CREATE TABLE sources (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('pending', 'done', 'failed')),
    run INTEGER NOT NULL REFERENCES runs (id), -- that brought it into this state
    at REAL NOT NULL,
    reason TEXT             -- of a failure
) WITHOUT ROWID;
CREATE INDEX sources_by_state ON sources (run, state);
"""
_SET_STATE = """
INSERT INTO sources (key, state, run, at, reason) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET state = excluded.state, run = excluded.run, at = excluded.at, reason = excluded.reason
"""
_LOCK_TRIES = 20  # `gpuexec runs` holds the lock for a moment to see whether it is free
_LOCK_PAUSE_S = 0.01


class Journal:
    """An open journal; the only writer. ``begin`` comes before ``record`` and ``end``.

    Every method raises ``CheckpointError`` where the file cannot be read or written.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int) -> None:
        self._path = path
        self._db = db
        self._lock = lock
        self._run: int | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Journal:
        """Open the journal of a checkpoint folder, making both if need be, and keep every other run out."""
        place = Path(folder) / SUBFOLDER
        path = place / FILE_NAME
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
            lock = _take_lock(place)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {str(folder)!r} cannot be written: {error.strerror} ({error.filename}); "
                "give a folder on a local disk that this user may write to"
            ) from error
        try:
            with translated_sqlite_errors(path):
                return cls(path, _open_file(path), lock)
        except BaseException:
            os.close(lock)
            raise

    def last_pipeline(self) -> str | None:
        """The fingerprint, as JSON, of the pipeline that the recorded sources belong to, if there is any."""
        with translated_sqlite_errors(self._path):
            row = self._db.execute(
                "SELECT pipeline FROM runs WHERE EXISTS (SELECT 1 FROM sources) ORDER BY id DESC LIMIT 1"
            ).fetchone()
        return None if row is None else str(row[0])

    def begin(self, *, digest: str, pipeline: str) -> int:
        """Record the start of a run and return its number."""
        with translated_sqlite_errors(self._path):
            made = self._db.execute(
                "INSERT INTO runs (started, digest, pipeline, pid, host) VALUES (?, ?, ?, ?, ?)",
                (time.time(), digest, pipeline, os.getpid(), socket.gethostname()),
            )
        self._run = made.lastrowid
        assert self._run is not None
        return self._run

    def is_done(self, key: str) -> bool:
        """Whether an earlier run has done this source."""
        with translated_sqlite_errors(self._path):
            found = self._db.execute(
                "SELECT 1 FROM sources WHERE key = ? AND state = 'done' AND run IS NOT ?", (_storable(key), self._run)
            ).fetchone()
        return found is not None

    def record(self, settled: Settled) -> None:
        """Write one completion step, all of it or nothing. It is safe from our death once this returns."""
        now, run = time.time(), self._run
        rows: list[tuple[str | None, str, int | None, float, str | None]] = []
        rows += [(_storable(key), "pending", run, now, None) for key in settled.opened]
        rows += [(_storable(key), "done", run, now, None) for key in settled.done]
        rows += [(_storable(key), "failed", run, now, _storable(reason)) for key, reason in settled.failed]
        with translated_sqlite_errors(self._path), _transaction(self._db):
            self._db.executemany(_SET_STATE, rows)

    def end(self, outcome: str) -> None:
        """Record the end of the run: 'done', or an error in a line."""
        with translated_sqlite_errors(self._path):
            self._db.execute(
                "UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", (time.time(), _storable(outcome), self._run)
            )

    def close(self) -> None:
        """Let others write. Safe to repeat."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def is_locked(place: Path) -> bool:
    """Whether a run writes the journal in this folder now."""
    try:
        lock = os.open(place / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def translated_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours: what is wrong with the journal at ``path`` and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        advice = next((text for start, text in _ADVICE if code.startswith(start)), "")
        raise CheckpointError(f"checkpoint journal {str(path)!r}: {error}{advice and '; '}{advice}") from error


_ADVICE = (
    ("SQLITE_FULL", "free some space and run again: whatever is recorded stays"),
    ("SQLITE_NOTADB", "it is no journal; give another folder, or remove the file to begin again"),
    ("SQLITE_CORRUPT", "it is damaged; give another folder, or remove it to begin again"),
    ("SQLITE_READONLY", "its file and folder must be writable"),
    ("SQLITE_CANTOPEN", "its folder must exist and be writable"),
    ("SQLITE_BUSY", "another program has locked it"),
    ("SQLITE_IOERR", "the disk refused (is it full, or a network file system? The journal needs a local one)"),
)


def check_header(db: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version, 0 for an empty file. Raises ``CheckpointError`` for what we did not make."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables and application in {0, APPLICATION_ID}:
        return 0
    if application != APPLICATION_ID:
        raise CheckpointError(
            f"{str(path)!r} is another program's database, not a gpuexec journal; give another folder"
        )
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"checkpoint journal {str(path)!r} has format {version}, this gpuexec knows {SCHEMA_VERSION}: "
            "it was written by a newer one; upgrade gpuexec or give another folder"
        )
    return int(version)


def _take_lock(place: Path) -> int:
    lock = os.open(place / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 == _LOCK_TRIES:
                    holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
                    raise CheckpointError(
                        f"checkpoint {str(place.parent)!r} is in use by {holder}: "
                        "wait for that run, stop it, or give another folder"
                    ) from None
                time.sleep(_LOCK_PAUSE_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _storable(text: str | None) -> str | None:
    """Text as SQLite takes it: names of files that are not UTF-8 hold lone surrogates, which it refuses."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "\ufffd" + text.encode(errors="backslashreplace").decode()
    return text


def _open_file(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):  # made here: SQLite would leave its mode to the umask
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    # Transactions are begun by us only. A stream may be taken from in one thread and closed in another, by turns.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if check_header(db, path) == 0:
            db.execute("PRAGMA journal_mode=WAL")
            with _transaction(db):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have rolled it back already
            db.execute("ROLLBACK")
        raise
