"""The lock around ``setup_on_node``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec.stage.node_lock import _lock_path, node_lock


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


HOLDER = """
import sys
from gpuexec.stage.node_lock import node_lock
with node_lock("a"):
    print("held", flush=True)
    sys.stdin.read()
"""


def is_locked(name: str) -> bool:
    inode = _lock_path(name).stat().st_ino
    return any(f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_it_is_held_by_one_and_freed_by_death():
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert is_locked("a")
    with node_lock("b"):
        assert is_locked("b")
    assert not is_locked("b")
    holder.kill()
    holder.communicate()
    with node_lock("a"):
        assert is_locked("a")


def test_the_folder_is_the_users_own(own_folder: Path):
    with node_lock("a"):
        pass
    (folder,) = own_folder.iterdir()
    assert folder.name == f"gpuexec-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_symbolic_link_in_its_place_is_not_followed(own_folder: Path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (own_folder / f"gpuexec-{os.getuid()}").symlink_to(elsewhere)
    with node_lock("a"):
        assert list(elsewhere.iterdir()) == []


def test_without_a_folder_for_the_file_there_is_no_lock(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/no/such/folder")
    with node_lock("a"):
        pass


def test_a_process_that_the_stage_forks_does_not_keep_the_lock():
    ours, theirs = os.pipe()
    with node_lock("a"):
        child = os.fork()
        if child == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
    assert not is_locked("a")
    os.close(theirs)
    os.waitpid(child, 0)
    os.close(ours)
