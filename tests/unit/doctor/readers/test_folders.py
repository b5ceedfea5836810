"""Folders of a run: on what they are, and whether they can be written. None is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuexec.config import ExecutorConfig
from gpuexec.doctor.readers.folders import file_system_of, read_folders

MOUNTS = """22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /data rw - nfs4 server:/export rw
24 23 0:41 / /data/fast\\040disk rw - xfs /dev/nvme0n1 rw
25 22 0:42 / /mnt rw - tmpfs tmpfs rw
26 22 0:43 / /mnt rw - fuse.sshfs host: rw
damaged
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/home/u", "ext4"),
        ("/data/x", "nfs4"),
        ("/data/fast disk/x", "xfs"),
        ("/database", "ext4"),
        ("/mnt", "fuse.sshfs"),  # mounted over another
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, folder, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(folder), mounts) == kind


def test_without_mounts_it_is_not_known(tmp_path):
    assert file_system_of(tmp_path, tmp_path / "none") is None


def test_the_folders_of_the_options(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = ExecutorConfig.create(checkpoint=str(tmp_path / "a/b"), spill_dir=str(tmp_path))
    runs, checkpoint, spill = read_folders(options)
    assert (runs.purpose, runs.path, runs.exists) == ("runs", str(tmp_path / "state/gpuexec/runs"), False)
    assert (checkpoint.path, checkpoint.exists, checkpoint.problem) == (str(tmp_path / "a/b"), False, None)
    assert (spill.path, spill.exists) == (str(tmp_path), True)
    for folder in (runs, checkpoint, spill):
        assert folder.file_system
        assert 0 < folder.space.free <= folder.space.total
    assert list(tmp_path.iterdir()) == []


def test_no_run_folder_and_no_home(monkeypatch):
    assert [folder.purpose for folder in read_folders(ExecutorConfig.create(run_dir=None))] == ["spill"]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    runs, _ = read_folders(ExecutorConfig.create())
    assert runs.problem == "no home directory"


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    options = ExecutorConfig.create(run_dir=str(tmp_path / "file"), spill_dir=str(tmp_path / "none"))
    runs, spill = read_folders(options)
    assert runs.problem == "it is not a folder"
    assert "it does not exist" in spill.problem
