"""``gpuexec history`` over several folders: what is missing, and folders that do not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gpuexec.checkpoint.journal import FILE_NAME, SUBFOLDER, Journal
from gpuexec.checkpoint.shard_folders import folder_of
from gpuexec.checkpoint.survey import survey
from gpuexec.cli.history import show_history
from gpuexec.core.sources import Settled
from gpuexec.errors import CheckpointError
from gpuexec.shards import Shard

PIPELINE = '[{"name": "reader", "class_name": "Reader", "settings": {}}]'
app = typer.Typer()
app.command()(show_history)


def shown(*arguments: str, status: int) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == status, result.output
    return result.output


def write(folder: Path, text: str | None, *, outcome: str | None = "done", digest: str = "d", **sources) -> Path:
    """Write a folder with one run of the shard; ``outcome`` ``None``: it was killed."""
    shard = None if text is None else Shard.read(text)
    own = folder_of(folder, shard)
    journal = Journal.open(own)
    journal.start_run(digest=digest, pipeline=PIPELINE, shard=shard)
    journal.record(Settled(**sources))
    if outcome is not None:
        journal.finish_run(outcome)
    journal.close()
    return own


def test_all_shards_are_done(tmp_path):
    for k in range(3):
        write(tmp_path, f"{k}/3", done=(f"0_{k}",))
    output = shown(str(tmp_path), status=0)
    assert "3 of 3 folders done; sources: 3 done, 0 failed, 0 pending" in output
    assert output.rstrip().endswith("complete: every source is done")


def test_what_is_missing(tmp_path):
    write(tmp_path, "0/6", done=("0_0",))
    write(tmp_path, "1/6", done=("0_1",), failed=(("0_7", "ValueError: [bold]bad[/bold]"),))
    write(tmp_path, "2/6", opened=("0_2", "0_8"), outcome=None)
    write(tmp_path, "3/6", opened=("0_3",), outcome="OSError: full")
    (tmp_path / Shard(4, 6).folder_name).mkdir()
    output = shown(str(tmp_path), status=3)
    lines = output.splitlines()
    assert "1 of 6 folders done; sources: 2 done, 1 failed, 3 pending" in lines
    assert "not begun: 5/6, 4/6" in lines
    assert "interrupted: 2/6" in lines
    assert "failed: 3/6" in lines
    assert "sources left: 1/6" in lines
    assert "  failed in 1/6: 0_7: ValueError: [bold]bad[/bold]" in lines
    assert "  pending in 2/6: 0_2" in lines
    assert lines[-1] == "not complete: run these shards (again): 1,2,3,4,5"
    assert max(map(len, output.splitlines()[:10])) <= 80

    document = json.loads(shown(str(tmp_path), "--json", status=3))
    assert document["missing_shards"] == ["5/6"]
    assert document["shards_to_run"] == [f"{k}/6" for k in range(1, 6)]
    states = [folder["state"] for folder in document["folders"]]
    assert states == ["done", "sources left", "interrupted", "failed", "not begun"]
    assert document["folders"][2]["history"]["unfinished"] == ["0_2", "0_8"]


def test_patterns_and_several_folders(tmp_path):
    for k in range(2):
        write(tmp_path, f"{k}/2", done=(f"0_{k}",))
    shown(str(tmp_path / "shard-*"), status=0)
    shown(*(str(path) for path in tmp_path.iterdir()), status=0)
    plain = [write(tmp_path / name, None, done=("0_0",)) for name in ("a", "b")]
    assert "2 of 2 folders done" in shown(*map(str, plain), status=0)


def test_a_run_that_goes_on_is_no_failure(tmp_path):
    write(tmp_path, "0/2", done=("0_0",))
    journal = Journal.open(folder_of(tmp_path, Shard(1, 2)))
    journal.start_run(digest="d", pipeline=PIPELINE, shard=Shard(1, 2))
    journal.record(Settled(opened=("0_1",)))
    output = shown(str(tmp_path), status=3)
    journal.close()
    assert "running: 1/2" in output
    assert output.rstrip().endswith("not complete yet: some are running")


def damaged(folder: Path) -> None:
    (folder / SUBFOLDER / FILE_NAME).write_bytes(b"no database" * 100)


def cut_short(folder: Path) -> None:
    path = folder / SUBFOLDER / FILE_NAME
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [damaged, cut_short])
def test_a_damaged_folder_is_told_and_the_others_are_shown(tmp_path, damage):
    write(tmp_path, "0/2", done=("0_0",))
    damage(write(tmp_path, "1/2", done=tuple(f"0_{n}" for n in range(500))))
    output = shown(str(tmp_path), status=1)
    assert "unreadable" in output
    assert "cannot tell: 1 folder(s) cannot be read" in output
    assert "shard-1-of-2" in output


def test_folders_that_do_not_belong_together(tmp_path):
    write(tmp_path / "x", "0/2", done=("0_0",))
    write(tmp_path / "y", "1/3", done=("0_1",), digest="e")
    output = shown(str(tmp_path / "x"), str(tmp_path / "y"), status=1)
    assert "2 different pipelines" in output
    assert "different numbers of shards (2, 3)" in output


def test_a_shard_that_was_run_twice(tmp_path):
    for name in ("x", "y"):
        write(tmp_path / name, "0/1", done=("0_0",))
    assert "2 folders are of shard 0/1" in shown(str(tmp_path / "x"), str(tmp_path / "y"), status=1)


def test_a_journal_that_another_machine_writes_is_copied_first(tmp_path):
    """The lock's text names another host; the reader must not touch the log's index, which only that host shares."""
    own = folder_of(tmp_path, Shard(0, 1))
    code = (
        "import sys, time; from gpuexec.checkpoint import journal; from gpuexec.core.sources import Settled; "
        "journal.socket.gethostname = lambda: 'node7'; j = journal.Journal.open(sys.argv[1]); "
        "j.start_run(digest='d', pipeline='[]'); j.record(Settled(done=('0_0',), opened=('0_1',))); "
        "print('open', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(own)], env={**os.environ}, **pipes) as writer:
        assert writer.stdout.readline() == b"open\n"
        before = {path.name: path.stat().st_mtime_ns for path in (own / SUBFOLDER).iterdir()}
        output = shown(str(own), status=3)
        after = {path.name: path.stat().st_mtime_ns for path in (own / SUBFOLDER).iterdir()}
        writer.stdin.close()
    assert "on node7)" in output
    assert "1 done, 0 failed, 1 pending" in output
    assert after == before


def test_a_file_system_that_does_not_answer(tmp_path):
    """Opening a pipe waits for its other end, as a call waits for a file server that is gone."""
    write(tmp_path, "0/2", done=("0_0",))
    own = folder_of(tmp_path, Shard(1, 2))
    (own / SUBFOLDER).mkdir()
    (own / SUBFOLDER / FILE_NAME).touch()
    os.mkfifo(own / SUBFOLDER / "lock")
    try:
        first, second = survey([str(tmp_path)], max_failures=1, timeout_s=1.0)
    finally:
        os.close(os.open(own / SUBFOLDER / "lock", os.O_RDWR | os.O_NONBLOCK))  # lets the reader go
    assert (first.state, second.state) == ("done", "unreadable")
    assert "no answer within 1 s" in second.problem


def test_the_numbers_for_sbatch(tmp_path):
    write(tmp_path, "0/4", done=("0_0",))
    write(tmp_path, "2/4", opened=("0_2",), outcome="SystemExit: 138")
    assert shown(str(tmp_path), "--array", status=3) == "1,2,3\n"
    assert "interrupted: 2/4" in shown(str(tmp_path), status=3), "a signal ended it; nothing failed"
    write(tmp_path, "1/4", done=("0_1",), digest="another pipeline")
    with pytest.raises(CheckpointError, match="2 different pipelines"):
        shown(str(tmp_path), "--array", status=1)
