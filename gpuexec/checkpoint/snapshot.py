"""A copy of a journal that another machine writes, to read it in peace.

SQLite's log is indexed by memory that the processes of one machine share, so a reader elsewhere would see a mixture.
A copy is consistent if the database itself did not change while it was made, and its log was not begun anew: the log
only grows otherwise, and SQLite drops a last transaction that is incomplete.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gpuexec.errors import CheckpointError

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05  # doubled after every attempt, so about 1.5 s in all
_LOG_HEADER_BYTES = 32  # it has the salts, which change when the log begins anew


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """Provide a copy of the journal at ``path``, on this machine's disk, for the block.

    Raises ``CheckpointError`` if the journal changes faster than it can be copied, ``OSError`` if it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="gpuexec-journal-") as folder:
        copy = Path(folder) / path.name
        for attempt in range(_ATTEMPTS):
            before = _generation(path)
            _copy_all(path, copy)
            if _generation(path) == before and _is_sound(copy):
                yield copy
                return
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise CheckpointError(
        f"checkpoint journal {str(path)!r} is written by another machine, and changes faster than it can be read from "
        "here: try again, or ask on that machine"
    )


def _generation(path: Path) -> tuple[int, int, bytes]:
    """Return what stays the same as long as only the log grows."""
    state = path.stat()
    header = b""
    with contextlib.suppress(FileNotFoundError), _log_of(path).open("rb") as log:
        header = log.read(_LOG_HEADER_BYTES)
    return state.st_size, state.st_mtime_ns, header


def _copy_all(path: Path, copy: Path) -> None:
    _log_of(copy).unlink(missing_ok=True)
    shutil.copyfile(path, copy)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(_log_of(path), _log_of(copy))


def _is_sound(copy: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(copy)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
