"""The journal: what is written stays, there is one writer at a time, and every problem has its own message."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gpuexec.checkpoint import history
from gpuexec.checkpoint.history import INTERRUPTED, RUNNING, Counts, read_history
from gpuexec.checkpoint.journal import FILE_NAME, LOCK_NAME, SUBFOLDER, Journal
from gpuexec.core.sources import Settled
from gpuexec.errors import CheckpointError

PIPELINE = '[{"name": "reader", "class_name": "Reader", "settings": {}}]'

WRITER = """
import sys
from gpuexec.checkpoint.journal import Journal
from gpuexec.core.sources import Settled
journal = Journal.open(sys.argv[1])
journal.start_run(digest="d", pipeline=sys.argv[2])
number = int(sys.argv[3])
while True:
    keys = tuple(f"{number + i}" for i in range(3))
    journal.record(Settled(opened=keys))
    journal.record(Settled(done=keys))
    number += 3
    print(number, flush=True)
"""

HOLDER = """
import os, sys
from gpuexec.checkpoint.journal import Journal
journal = Journal.open(sys.argv[1])
journal.start_run(digest="d", pipeline=sys.argv[2])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def start(code: str, folder: Path, number: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), PIPELINE, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def journal(tmp_path: Path):
    opened = Journal.open(tmp_path / "c")
    opened.start_run(digest="d", pipeline=PIPELINE)
    yield opened
    opened.close()


def reopen(journal: Journal, tmp_path: Path) -> Journal:
    journal.close()
    return Journal.open(tmp_path / "c")


def test_states_and_what_the_next_run_sees(journal, tmp_path):
    journal.record(Settled(opened=("a", "b", "c")))
    journal.record(Settled(done=("a",), failed=(("b", "broken"),)))
    assert not journal.is_done("a")  # done in this run, so its tasks are not skipped
    journal.finish_run("done")
    with closing(reopen(journal, tmp_path)) as second:
        assert second.last_pipeline() == PIPELINE
        assert [second.is_done(key) for key in "abcd"] == [True, False, False, False]
        second.start_run(digest="d", pipeline=PIPELINE)
        assert second.is_done("a")
        second.record(Settled(opened=("b", "c")))
        assert read_history(tmp_path / "c").sources == Counts(done=1, pending=2)
        second.record(Settled(done=("b",)))
        second.finish_run("ValueError: no")
    history = read_history(tmp_path / "c")
    assert history.sources == Counts(done=2, pending=1)
    assert [(run.outcome, run.sources) for run in history.runs] == [
        ("done", Counts(done=1)),
        ("ValueError: no", Counts(done=1, pending=1)),
    ]


def test_a_run_without_sources_does_not_bind_the_folder_to_its_pipeline(journal, tmp_path):
    journal.finish_run("done")
    with closing(reopen(journal, tmp_path)) as second:
        assert second.last_pipeline() is None


def test_one_step_is_written_whole_or_not_at_all(journal, tmp_path):
    journal.record(Settled(opened=("a",)))
    with pytest.raises(CheckpointError, match="constraint"):
        journal.record(Settled(done=("a", None)))
    assert read_history(tmp_path / "c").sources == Counts(pending=1)


def test_only_the_owner_can_read_it(journal, tmp_path):
    journal.record(Settled(opened=("a",)))
    subfolder = tmp_path / "c" / SUBFOLDER
    assert stat.S_IMODE(subfolder.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in subfolder.iterdir()}
    assert {FILE_NAME, f"{FILE_NAME}-wal", LOCK_NAME} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_a_second_writer_is_refused_with_the_process_of_the_first(tmp_path):
    with start(HOLDER, tmp_path) as holder:
        pid = holder.stdout.readline().strip()
        with pytest.raises(CheckpointError, match=f"in use by process {pid} on .*: wait for that run"):
            Journal.open(tmp_path)
        assert [run.outcome for run in read_history(tmp_path).runs] == [RUNNING]
        holder.kill()
    assert [run.outcome for run in read_history(tmp_path).runs] == [INTERRUPTED]
    Journal.open(tmp_path).close()  # the lock has died with its holder


def test_a_run_that_begins_while_the_journal_is_read_is_running(tmp_path, monkeypatch):
    before, is_locked = [False], history.is_locked
    with start(HOLDER, tmp_path) as holder:
        holder.stdout.readline()
        monkeypatch.setattr(history, "is_locked", lambda folder: before.pop() if before else is_locked(folder))
        assert [run.outcome for run in read_history(tmp_path).runs] == [RUNNING]
        holder.kill()


def test_a_second_writer_in_the_same_process_is_refused(journal, tmp_path):
    with pytest.raises(CheckpointError, match="in use by process"):
        Journal.open(tmp_path / "c")


def test_readers_do_not_keep_a_writer_out(journal, tmp_path):
    for number in range(50):
        read_history(tmp_path / "c")
        journal.record(Settled(opened=(str(number),)))
    assert read_history(tmp_path / "c").sources.pending == 50


@pytest.mark.parametrize("seed", range(6))
def test_a_writer_killed_at_any_moment_loses_nothing_it_had_acknowledged(tmp_path, seed):
    known = 0
    for _ in range(2):  # the second one finds the log that the first one left
        with start(WRITER, tmp_path, known) as writer:
            for _ in range(random.Random(seed).randrange(1, 200)):
                known = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            known = max([known, *map(int, writer.stdout.read().split())])
        with closing(Journal.open(tmp_path)) as journal:
            assert all(journal.is_done(str(number)) for number in range(known))
    read = read_history(tmp_path)
    assert read.sources.done % 3 == 0  # steps are whole
    assert read.sources.pending in {0, 3, 6}
    assert [run.outcome for run in read.runs] == [INTERRUPTED, INTERRUPTED]
    with closing(sqlite3.connect(tmp_path / SUBFOLDER / FILE_NAME)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_journal_killed_while_it_was_made_is_made_again(tmp_path):
    (tmp_path / SUBFOLDER).mkdir()
    (tmp_path / SUBFOLDER / FILE_NAME).touch()
    assert read_history(tmp_path).runs == ()
    with closing(sqlite3.connect(tmp_path / SUBFOLDER / FILE_NAME)) as db:
        db.execute("PRAGMA journal_mode=WAL")
    assert read_history(tmp_path).runs == ()
    with closing(Journal.open(tmp_path)) as journal:
        journal.start_run(digest="d", pipeline=PIPELINE)


def broken_file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / SUBFOLDER).mkdir()
    (tmp_path / SUBFOLDER / FILE_NAME).write_bytes(content)
    return tmp_path


def both_refuse(folder: Path, message: str) -> None:
    for use in (Journal.open, read_history):
        with pytest.raises(CheckpointError, match=message) as caught:
            use(folder)
        assert str(folder) in str(caught.value)
    assert not is_held(folder)


def is_held(folder: Path) -> bool:
    try:
        Journal.open(folder).close()
    except CheckpointError as error:
        return "in use" in str(error)
    return False


def test_a_file_that_is_no_database(tmp_path):
    both_refuse(
        broken_file(tmp_path, b"Dear diary, " * 1000), "file is not a database; it is not a journal; give another"
    )


def test_another_programs_database(tmp_path):
    folder = broken_file(tmp_path, b"")
    with closing(sqlite3.connect(folder / SUBFOLDER / FILE_NAME)) as db:
        db.execute("CREATE TABLE runs (id)")
    both_refuse(folder, "another program's database")


def test_a_newer_format(journal, tmp_path):
    journal._db.execute("PRAGMA user_version=7")
    journal.close()
    both_refuse(tmp_path / "c", "has format 7, and this gpuexec knows 1: a newer gpuexec wrote it")


def test_a_damaged_file(journal, tmp_path):
    journal.record(Settled(done=tuple(f"key {n:06}" for n in range(5000))))
    journal.close()
    path = tmp_path / "c" / SUBFOLDER / FILE_NAME
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 40] = random.Random(1).randbytes(4096 * 38)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="malformed; it is damaged; give another folder"):
        read_history(tmp_path / "c")
    with closing(Journal.open(tmp_path / "c")) as again:
        for use in (again.last_pipeline, lambda: [again.is_done(f"key {n:06}") for n in range(5000)]):
            with pytest.raises(CheckpointError, match="malformed; it is damaged"):
                use()


def test_a_full_disk(journal, tmp_path):
    journal.record(Settled(done=("a",)))
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(CheckpointError, match="disk is full; free some space and run again"):
        journal.record(Settled(done=tuple(f"key {n:06}" for n in range(5000))))
    journal._db.execute("PRAGMA max_page_count=100000")
    journal.record(Settled(done=("b",)))
    assert read_history(tmp_path / "c").sources == Counts(done=2)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/below"])
def test_a_folder_that_cannot_be_made(folder):
    with pytest.raises(CheckpointError, match=r"cannot be written: .*; give a folder on a local disk"):
        Journal.open(folder)


def test_no_checkpoint_to_read(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint: give the folder"):
        read_history(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        read_history(tmp_path / "nowhere")


def test_closing_twice_closes_nothing_else(tmp_path):
    journal = Journal.open(tmp_path)
    journal.close()
    with (tmp_path / "file").open("w"):
        journal.close()


def test_a_forked_child_that_lives_on_does_not_keep_the_folder_locked(tmp_path):
    journal = Journal.open(tmp_path)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    with pytest.raises(CheckpointError, match="in use by process"):
        Journal.open(tmp_path)
    journal.close()
    Journal.open(tmp_path).close()
    os.close(theirs)
    os.waitpid(child, 0)
    os.close(ours)
