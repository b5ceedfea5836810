from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.private_folder import private_folder


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_it_is_made_for_this_user_only_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "own")
    finally:
        os.umask(before)
    assert folder == tmp_path / "own"
    assert mode_of(folder) == 0o700
    (folder / "kept").touch()
    assert private_folder(folder) == folder
    assert (folder / "kept").exists()


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o500])
def test_other_permissions_are_corrected(tmp_path: Path, mode: int):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    assert mode_of(private_folder(tmp_path / "open")) == 0o700


def test_a_link_to_a_folder_is_refused_and_its_target_unchanged(tmp_path: Path):
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(PermissionError, match="link is not a folder of this user's own"):
        private_folder(tmp_path / "link")
    assert mode_of(tmp_path / "target") == 0o755


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_folder_is_refused(tmp_path: Path, make):
    make(tmp_path / "taken")
    with pytest.raises(OSError):
        private_folder(tmp_path / "taken")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(PermissionError, match="not a folder of this user's own"):
        private_folder(tmp_path / "theirs")


def test_the_parent_must_exist(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        private_folder(tmp_path / "missing" / "own")
