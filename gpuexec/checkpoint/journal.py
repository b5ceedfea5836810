"""The journal of a checkpoint: its runs, and what became of every source.

    FOLDER/.gpuexec/journal.sqlite3   the journal (with SQLite's -wal and -shm beside it while it is open)
    FOLDER/.gpuexec/lock              held by the one run that writes; its text says which process that is

Why WAL and ``synchronous=NORMAL``: the operating system has a transaction once it is committed, so the end of our
process cannot undo it, and a commit costs less than 0.1 ms. Only a power cut can undo the last transactions. They are
completions, whose sources are then processed again, so the promise holds. An fsync for each transaction would gain
nothing, since the stage's own output files have none either. The file itself stays consistent in any case.

Why flock and not SQLite's own lock: it lasts the whole run while others can read, a second attempt to take it fails at
once, and the kernel releases it when the process ends, however that happens. A process that was forked from the driver
without exec shares the lock and keeps it until it has ended too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from gpuexec.core.sources import Settled
from gpuexec.errors import CheckpointError
from gpuexec.shards import Shard

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
    host TEXT NOT NULL,
    task_seed TEXT,         -- NULL: none
    shard TEXT              -- K/N, NULL: all sources
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
_MAX_LOCK_ATTEMPTS = 20  # `gpuexec history` holds the lock for a moment to see whether it is free
_LOCK_PAUSE_S = 0.01


class Journal:
    """An open journal, and its only writer. ``start_run`` must come before ``record`` and ``finish_run``.

    Every method but ``close`` raises ``CheckpointError`` if the file cannot be read or written.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, lock: int) -> None:
        self._path = path
        self.folder = path.parent.parent
        self._db = db
        self._lock = lock
        self._run: int | None = None
        _all_open.add(self)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Journal:
        """Open the journal of a checkpoint folder and lock it. Both are made if they are missing."""
        subfolder = Path(folder) / SUBFOLDER
        path = subfolder / FILE_NAME
        try:
            subfolder.parent.mkdir(parents=True, exist_ok=True)
            subfolder.mkdir(mode=0o700, exist_ok=True)  # may be a link, to a local disk for example
            lock = _take_lock(subfolder)
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
        """Return the fingerprint, as JSON, of the pipeline whose sources are recorded; ``None`` if there are none."""
        with translated_sqlite_errors(self._path):
            row = self._db.execute(
                "SELECT pipeline FROM runs WHERE EXISTS (SELECT 1 FROM sources) ORDER BY id DESC LIMIT 1"
            ).fetchone()
        return None if row is None else str(row[0])

    def first_digest(self) -> str | None:
        """Return the digest of the pipeline of the folder's first run; ``None`` before it."""
        with translated_sqlite_errors(self._path):
            row = self._db.execute("SELECT digest FROM runs ORDER BY id LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def last_task_seed(self) -> int | None:
        """Return the ``task_seed`` of the folder's last run; ``None`` if it had none, or there was no run."""
        with translated_sqlite_errors(self._path):
            row = self._db.execute("SELECT task_seed FROM runs ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def start_run(
        self, *, digest: str, pipeline: str, task_seed: int | None = None, shard: Shard | None = None
    ) -> None:
        """Record the start of a run."""
        with translated_sqlite_errors(self._path):
            cursor = self._db.execute(
                "INSERT INTO runs (started, digest, pipeline, pid, host, task_seed, shard) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    time.time(),
                    digest,
                    pipeline,
                    os.getpid(),
                    socket.gethostname(),
                    None if task_seed is None else str(task_seed),  # SQLite's integers have 64 bits
                    None if shard is None else str(shard),
                ),
            )
        self._run = cursor.lastrowid

    def is_done(self, key: str) -> bool:
        """Return whether an earlier run has done this source."""
        with translated_sqlite_errors(self._path):
            row = self._db.execute(
                "SELECT 1 FROM sources WHERE key = ? AND state = 'done' AND run IS NOT ?", (_storable(key), self._run)
            ).fetchone()
        return row is not None

    def record(self, settled: Settled) -> None:
        """Write all of ``settled`` in one transaction. Once this returns, the death of this process cannot undo it."""
        now, run = time.time(), self._run
        rows: list[tuple[str | None, str, int | None, float, str | None]] = []
        rows += [(_storable(key), "pending", run, now, None) for key in settled.opened]
        rows += [(_storable(key), "done", run, now, None) for key in settled.done]
        rows += [(_storable(key), "failed", run, now, _storable(reason)) for key, reason in settled.failed]
        with translated_sqlite_errors(self._path), _transaction(self._db):
            self._db.executemany(_SET_STATE, rows)

    def finish_run(self, outcome: str) -> None:
        """Record the end of the run; ``outcome`` is 'done' or an error in a line."""
        with translated_sqlite_errors(self._path):
            self._db.execute(
                "UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", (time.time(), _storable(outcome), self._run)
            )

    def close(self) -> None:
        """Close the file and release the lock. Safe to repeat."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._drop_lock()

    def _drop_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


_all_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def _drop_locks() -> None:
    for journal in list(_all_open):
        journal._drop_lock()


os.register_at_fork(after_in_child=_drop_locks)  # a child that outlives the run would keep the folder locked


def is_locked(subfolder: Path) -> bool:
    """Return whether a run has locked the journal in this folder (see ``SUBFOLDER``)."""
    try:
        lock = os.open(subfolder / LOCK_NAME, os.O_RDONLY)
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
    """Raise SQLite's errors as ``CheckpointError``: what is wrong with the journal at ``path`` and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        advice = next((text for start, text in _ADVICE if code.startswith(start)), "")
        raise CheckpointError(f"checkpoint journal {str(path)!r}: {error}{advice and '; '}{advice}") from error


_ADVICE = (
    ("SQLITE_FULL", "free some space and run again; what was recorded is kept"),
    ("SQLITE_NOTADB", "it is not a journal; give another folder, or remove the file to begin again"),
    ("SQLITE_CORRUPT", "it is damaged; give another folder, or remove it to begin again"),
    ("SQLITE_READONLY", "its file and folder must be writable"),
    ("SQLITE_CANTOPEN", "its folder must exist and be writable"),
    ("SQLITE_BUSY", "another program has locked it"),
    ("SQLITE_IOERR", "the disk failed (is it full, or on the network? The journal needs a local file system)"),
)


def check_header(db: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema, 0 for an empty file.

    Raises ``CheckpointError`` if the file is not a journal or was written by a newer gpuexec.
    """
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
            f"checkpoint journal {str(path)!r} has format {version}, and this gpuexec knows {SCHEMA_VERSION}: "
            "a newer gpuexec wrote it; upgrade gpuexec or give another folder"
        )
    return int(version)


def _take_lock(subfolder: Path) -> int:
    lock = os.open(subfolder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for attempt in range(_MAX_LOCK_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 == _MAX_LOCK_ATTEMPTS:
                    holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
                    raise CheckpointError(
                        f"checkpoint {str(subfolder.parent)!r} is in use by {holder}: "
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
    """Return the text in a form that SQLite accepts.

    Names of files that are not UTF-8 contain lone surrogates, which SQLite refuses.
    """
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "\ufffd" + text.encode(errors="backslashreplace").decode()
    return text


def _open_file(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):  # made here because SQLite leaves the mode to the umask
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    # isolation_level: only `_transaction` begins one. A stream may be read in one thread and closed in another.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if check_header(db, path) == 0:
            db.execute("PRAGMA journal_mode=WAL")
            with _transaction(db):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        else:
            columns = columns_of_runs(db)
            for name in ("task_seed", "shard"):
                if name not in columns:
                    db.execute(f"ALTER TABLE runs ADD COLUMN {name} TEXT")  # a journal of before there were any
        db.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def columns_of_runs(db: sqlite3.Connection) -> set[str]:
    """Return the columns of the table of runs. Journals of earlier versions lack some."""
    return {name for _, name, *_ in db.execute("PRAGMA table_info(runs)")}


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back on a full disk
            db.execute("ROLLBACK")
        raise
