"""The ids that the runs of a checkpoint have given to batches of documents, in the journal's file.

They are written before a worker gets them, by a connection of its own that waits for the disk (``synchronous=FULL``):
the files of a source may be on disk although a power cut has undone what the journal recorded of it, and their ids must
not be given to others. One write takes milliseconds, and there is one for each batch that a reader reads.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from gpuexec.checkpoint.id_ranges import Range, first_collision, shown
from gpuexec.checkpoint.journal import FILE_NAME, SUBFOLDER, translated_sqlite_errors
from gpuexec.errors import CheckpointError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ids (
    batch TEXT PRIMARY KEY,  -- the hash of its files' names
    first INTEGER NOT NULL,
    last INTEGER NOT NULL    -- below `first` for a batch without documents
) WITHOUT ROWID
"""


class IdLedger:
    """The ids in a checkpoint folder whose journal this run has opened, and so locked.

    ``ids``: what it holds. Methods raise ``CheckpointError`` if the file cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._path = Path(folder) / SUBFOLDER / FILE_NAME
        with translated_sqlite_errors(self._path):
            # Written in the thread that serves the workers, opened and closed in the driver's.
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            with translated_sqlite_errors(self._path):
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute(_SCHEMA)
                self.ids = self._read()
        except BaseException:
            self._db.close()
            raise

    def _read(self) -> dict[str, Range]:
        ids: dict[str, Range] = {}
        for batch, first, last in self._db.execute("SELECT batch, first, last FROM ids"):
            if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last + 1):
                raise self._damaged(f"batch {batch} has the ids {first!r} to {last!r}")
            ids[str(batch)] = first, last
        collision = first_collision(ids)
        if collision is not None:
            one, other = collision
            raise self._damaged(f"batches {one} and {other} share ids ({shown(ids[one])}, {shown(ids[other])})")
        return ids

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint journal {str(self._path)!r} is damaged: {what}, so a run could give ids twice; "
            "give another folder, or remove it to begin again"
        )

    def keep(self, batch: str, ids: Range) -> None:
        """Write the ids of a batch. Once this returns, not even a power cut can undo it."""
        if batch in self.ids:
            return
        with translated_sqlite_errors(self._path):
            self._db.execute("INSERT INTO ids (batch, first, last) VALUES (?, ?, ?)", (batch, *ids))
        self.ids[batch] = ids

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        self._db.close()
