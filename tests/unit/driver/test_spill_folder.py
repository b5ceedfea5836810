"""The folder for what waits between phases: on a disk where there is one, and refused where it cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.driver import spill_folder
from gpuexec.driver.spill_folder import choose_folder, file_system_in_memory
from gpuexec.errors import ConfigurationError

IN_MEMORY = "/dev/shm"


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A table of mounts in which ``tmp_path`` is the second mount."""
    device = tmp_path.stat().st_dev
    path = tmp_path / "mountinfo"
    path.write_text(
        "22 1 0:5 / /dev rw shared:2 - devtmpfs devtmpfs rw\n"
        f"29 1 {os.major(device)}:{os.minor(device)} /a - b / rw,relatime shared:1 - FILESYSTEM /dev/vda rw\n"
    )
    return path


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", None), ("overlay", None), ("tmpfs", "tmpfs"), ("ramfs", "ramfs")]
)
def test_whether_a_file_system_lies_in_memory(tmp_path, mounts, kind, expected):
    mounts.write_text(mounts.read_text().replace("FILESYSTEM", kind).replace("/a - b", "/"))
    assert file_system_in_memory(str(tmp_path), mounts) == expected


def test_what_cannot_be_told_counts_as_a_disk(tmp_path):
    assert file_system_in_memory(str(tmp_path), tmp_path / "missing") is None
    assert file_system_in_memory(str(tmp_path / "missing")) is None
    (tmp_path / "mountinfo").write_text("garbled\n\n22 1 0:5\n")
    assert file_system_in_memory(str(tmp_path), tmp_path / "mountinfo") is None


def test_the_first_default_that_is_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_folder, "_DEFAULTS", (str(tmp_path / "missing"), IN_MEMORY, str(tmp_path)))
    assert choose_folder(None, {}).path == str(tmp_path)
    assert choose_folder(None, {"TMPDIR": IN_MEMORY}).path == str(tmp_path)
    (tmp_path / "own").mkdir()
    chosen = choose_folder(None, {"TMPDIR": str(tmp_path / "own")})
    assert (chosen.path, chosen.in_memory, chosen.warning) == (str(tmp_path / "own"), None, None)


@pytest.mark.parametrize("option", [None, IN_MEMORY])
def test_a_folder_in_memory_is_used_with_a_warning(tmp_path, monkeypatch, option):
    monkeypatch.setattr(spill_folder, "_DEFAULTS", (IN_MEMORY, "/dev/shm/"))
    chosen = choose_folder(option, {})
    assert (chosen.path, chosen.in_memory) == (IN_MEMORY, "tmpfs")
    assert "spill_dir" in chosen.warning


def test_a_relative_folder_stays_what_it_was_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert choose_folder("here").path == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "it does not exist"), ("file", "it is not a folder"), ("file/below", "Not a directory")],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=reason) as caught:
        choose_folder(str(tmp_path / name))
    assert "spill_dir=" in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_that_takes_no_files_is_refused():
    with pytest.raises(ConfigurationError, match="spill_dir='/proc' cannot be used: no file can be made in it"):
        choose_folder("/proc")


def test_without_any_folder_the_error_names_those_that_were_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(spill_folder, "_DEFAULTS", (str(tmp_path / "missing"), "/proc"))
    with pytest.raises(ConfigurationError, match=r"missing: it does not exist; /proc: no file can be made in it"):
        choose_folder(None, {})
