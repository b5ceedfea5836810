from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec import CheckpointError
from gpuexec.checkpoint.id_ledger import IdLedger
from gpuexec.checkpoint.journal import Journal

WRITES_AND_DIES = """
import os, signal, sys
from gpuexec.checkpoint.id_ledger import IdLedger
from gpuexec.checkpoint.journal import Journal
journal = Journal.open(sys.argv[1])
ledger = IdLedger(sys.argv[1])
ledger.keep("one", (0, 4))
ledger.keep("empty", (5, 4))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Journal.open(tmp_path).close()
    return tmp_path


def database(folder: Path) -> Path:
    return folder / ".gpuexec" / "journal.sqlite3"


def test_what_was_kept_outlives_a_killed_process(tmp_path: Path):
    ended = subprocess.run([sys.executable, "-c", WRITES_AND_DIES, tmp_path], check=False)
    assert ended.returncode == -9
    journal = Journal.open(tmp_path)
    ledger = IdLedger(tmp_path)
    assert ledger.ids == {"one": (0, 4), "empty": (5, 4)}
    ledger.keep("one", (0, 4))  # known already
    ledger.keep("two", (5, 6))
    ledger.close()
    ledger.close()
    again = IdLedger(tmp_path)
    assert again.ids["two"] == (5, 6)
    again.close()
    journal.close()


def test_a_run_may_write_its_journal_at_the_same_time(folder: Path):
    journal, ledger = Journal.open(folder), IdLedger(folder)
    for number in range(20):
        journal.start_run(digest=str(number), pipeline="[]")
        ledger.keep(str(number), (number, number))
    assert len(ledger.ids) == 20
    ledger.close()
    journal.close()


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([("a", 0, 5), ("b", 5, 9)], "share ids"),
        ([("a", 5, 2)], "ids 5 to 2"),
        ([("a", -3, -1)], "ids -3 to -1"),
        ([("a", "x", 3)], "ids 'x' to 3"),
    ],
)
def test_ids_that_would_be_given_twice_are_damage(folder: Path, rows, what: str):
    IdLedger(folder).close()
    with sqlite3.connect(database(folder)) as db:
        db.executemany("INSERT INTO ids VALUES (?, ?, ?)", rows)
    db.close()
    with pytest.raises(CheckpointError, match=f"is damaged: .*{what}"):
        IdLedger(folder)


def test_a_file_that_is_no_database(folder: Path):
    database(folder).write_bytes(b"no database" * 1000)
    with pytest.raises(CheckpointError, match="not a journal"):
        IdLedger(folder)


def test_a_full_disk(folder: Path):
    ledger = IdLedger(folder)
    ledger._db.execute("PRAGMA max_page_count = 1")  # as a full disk does
    with pytest.raises(CheckpointError, match="free some space"):
        ledger.keep("x" * 100_000, (0, 4))
    assert ledger.ids == {}
    ledger.close()
