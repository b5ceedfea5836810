"""Run folders: their names, their lock, and which are kept."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report import run_folder
from gpuexec.report.run_folder import RunFolder

MOMENT = 1_795_959_538.4376


def ended(parent: Path, number: int, size: int = 10) -> Path:
    """A folder of a run that has ended. The higher ``number``, the newer."""
    folder = RunFolder(parent, run_folder.folder_name("p", f"{number:06x}", MOMENT + number))
    folder.write(run_folder.REPORT, b"x" * size)
    folder.close()
    return folder.path


@given(st.text(), st.integers(0, 2**24 - 1))
def test_a_name_is_safe_and_tells_time_pipeline_and_run(pipeline, number):
    name = run_folder.folder_name(pipeline, f"{number:06x}", MOMENT)
    assert name.isascii()
    assert len(name) < 100
    assert not set(name) & set("/\\\n\0 <>\"'&")
    time_part, pipeline_part, run_id = run_folder.name_parts(Path(name))
    assert time_part == "20261129T133858.437Z"
    assert run_id == f"{number:06x}"
    assert pipeline_part


def test_names_sort_by_time():
    names = [run_folder.folder_name("p", "ffffff", MOMENT), run_folder.folder_name("a", "000000", MOMENT + 0.002)]
    assert sorted(names) == names


def test_a_folder_and_its_files_are_the_users_own(tmp_path):
    folder = RunFolder(tmp_path, "name")
    folder.write("report.json", b"{}")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "report.json").stat().st_mode) == 0o600
    folder.close()


def test_two_folders_of_one_name_are_two(tmp_path):
    folders = [RunFolder(tmp_path, "20261129T133858.437Z-p-abcdef") for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    assert len(run_folder.run_folders(tmp_path)) == 3
    for folder in folders:
        folder.close()


def test_a_file_is_replaced_whole(tmp_path):
    folder = RunFolder(tmp_path, "name")
    for content in (b"first", b"second, which is longer", b"3"):
        folder.write("report.json", content)
        assert (folder.path / "report.json").read_bytes() == content
    assert {file.name for file in folder.path.iterdir()} == {"report.json", "lock"}
    folder.close()


def test_a_live_run_is_told_from_one_that_ended(tmp_path):
    folder = RunFolder(tmp_path, "name")
    assert run_folder.is_live(folder.path)
    assert not run_folder.was_killed(folder.path)
    folder.close()
    assert not run_folder.is_live(folder.path)
    assert not run_folder.was_killed(folder.path)


def test_a_killed_run_is_told_from_both(tmp_path):
    code = "import os, sys; from pathlib import Path; from gpuexec.report.run_folder import RunFolder; "
    code += "RunFolder(Path(sys.argv[1]), 'name'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert not run_folder.is_live(tmp_path / "name")
    assert run_folder.was_killed(tmp_path / "name")


def test_the_newest_are_kept(tmp_path):
    folders = [ended(tmp_path, number) for number in range(6)]
    removed = run_folder.prune(tmp_path, keep=4)
    assert removed == folders[:2]
    assert run_folder.run_folders(tmp_path) == folders[2:]


def test_what_is_too_much_is_removed(tmp_path):
    folders = [ended(tmp_path, number, size=100) for number in range(6)]
    assert run_folder.prune(tmp_path, keep_bytes=350) == folders[:3]


def test_the_newest_stays_however_large_it_is(tmp_path):
    ended(tmp_path, 1)
    newest = ended(tmp_path, 2, size=1000)
    run_folder.prune(tmp_path, keep_bytes=500)
    assert run_folder.run_folders(tmp_path) == [newest]


def test_live_runs_and_all_else_stay(tmp_path):
    live = RunFolder(tmp_path, run_folder.folder_name("p", "000000", MOMENT))
    others = [tmp_path / "notes", tmp_path / "20261129-mine"]
    for other in others:
        other.mkdir()
    link = tmp_path / run_folder.folder_name("p", "000001", MOMENT + 1)
    link.symlink_to(others[0])
    ended(tmp_path, 2)
    run_folder.prune(tmp_path, keep=0, keep_bytes=0)
    assert live.path.exists()
    assert all(other.exists() for other in others)
    assert link.is_symlink()
    live.close()


def test_a_folder_that_is_just_being_made_stays(tmp_path):
    young = tmp_path / run_folder.folder_name("p", "000000", MOMENT)
    young.mkdir()
    assert run_folder.prune(tmp_path, keep=0) == []
    old = time.time() - 3600
    os.utime(young, (old, old))
    assert run_folder.prune(tmp_path, keep=0) == [young]


def test_the_runs_own_folder_stays_although_the_clock_was_set_back(tmp_path):
    own = ended(tmp_path, 0)
    later = [ended(tmp_path, number) for number in range(1, 4)]
    assert run_folder.prune(tmp_path, keep=2, own=own) == later[:1]
    assert own.exists()


def test_what_an_interrupted_removal_left_is_removed_too(tmp_path):
    left = tmp_path / ".removed-20261129T133858.437Z-p-abcdef"
    left.mkdir()
    (left / "log.jsonl").write_text("x")
    assert run_folder.prune(tmp_path) == []
    assert not left.exists()


def test_a_folder_that_another_program_removes_meanwhile_is_no_obstacle(tmp_path, monkeypatch):
    first, second, *_ = [ended(tmp_path, number) for number in range(4)]

    def is_live(folder: Path) -> bool:
        shutil.rmtree(first, ignore_errors=True)
        return False

    monkeypatch.setattr(run_folder, "is_live", is_live)
    assert run_folder.prune(tmp_path, keep=2) == [second]
    assert len(run_folder.run_folders(tmp_path)) == 2


def test_several_programs_may_remove_at_once(tmp_path):
    folders = [ended(tmp_path, number) for number in range(60)]
    removed: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: removed.append(run_folder.prune(tmp_path, keep=10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder for part in removed for folder in part) == folders[:50]
    assert sorted(tmp_path.iterdir()) == folders[50:]


def test_nobody_finds_the_lock_of_a_run_unlocked(tmp_path, monkeypatch):
    seen: list[bool] = []

    def flock(fd: int, operation: int) -> None:
        seen.append((tmp_path / "name" / run_folder.LOCK).exists())
        real_flock(fd, operation)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    folder = RunFolder(tmp_path, "name")
    assert seen == [False]
    assert run_folder.is_live(folder.path)
    folder.close()


def test_two_that_look_at_a_killed_run_at_once_both_see_that(tmp_path):
    folder = tmp_path / "name"
    folder.mkdir()
    (folder / run_folder.LOCK).touch()
    with (folder / run_folder.LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not run_folder.is_live(folder)
        assert run_folder.was_killed(folder)


def test_a_full_disk_leaves_no_empty_folder_and_no_descriptor(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        with pytest.raises(OSError, match="File too large"):
            RunFolder(tmp_path, "name")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_folder_no_runs(tmp_path):
    assert run_folder.run_folders(tmp_path / "none") == []
    assert run_folder.prune(tmp_path / "none") == []


def test_the_option_names_the_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert run_folder.parent_folder("auto") == tmp_path / "state" / "gpuexec" / "runs"
    assert run_folder.parent_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "gpuexec").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        run_folder.parent_folder("auto")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    folder = RunFolder(tmp_path, "name")
    folder.write("report.json", b"old")
    (folder.path / ".report.json.new").mkdir()  # so that no new one can be opened
    with pytest.raises(OSError):
        folder.write("report.json", b"new")
    assert (folder.path / "report.json").read_bytes() == b"old"
    folder.close()
    shutil.rmtree(folder.path)
