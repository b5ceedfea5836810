"""A folder for each shard, and none for another number of shards."""

from __future__ import annotations

import pytest

from gpuexec.checkpoint.journal import Journal
from gpuexec.checkpoint.shard_folders import folder_of, shard_named, shards_in
from gpuexec.errors import CheckpointError, CheckpointMismatch
from gpuexec.shards import Shard


def test_every_shard_has_its_own(tmp_path):
    folders = [folder_of(tmp_path, Shard(k, 11)) for k in range(11)]
    assert list(shards_in(tmp_path).values()) == folders == sorted(folders)
    assert [shard_named(folder.name) for folder in folders] == [Shard(k, 11) for k in range(11)]
    assert folder_of(tmp_path, Shard(3, 11)) == folders[3]


def test_another_number_of_shards_is_refused_and_leaves_nothing(tmp_path):
    folder_of(tmp_path, Shard(0, 4))
    with pytest.raises(CheckpointMismatch, match=r"with 4 shards, and this run has 8.*shard='K/4'"):
        folder_of(tmp_path, Shard(0, 8))
    with pytest.raises(CheckpointMismatch, match="this run has 1"):
        folder_of(tmp_path, None)
    assert list(shards_in(tmp_path)) == [Shard(0, 4)]


def test_a_folder_of_runs_without_shards_is_refused(tmp_path):
    Journal.open(tmp_path).close()
    with pytest.raises(CheckpointMismatch, match="without shards"):
        folder_of(tmp_path, Shard(0, 8))


def test_without_a_shard_it_is_the_folder_itself(tmp_path):
    assert folder_of(tmp_path / "new", None) == tmp_path / "new"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        folder_of(tmp_path / "file", Shard(0, 2))


@pytest.mark.parametrize("name", ["shard-8-of-8", "shard-a-of-8", "shard-1-of-8.bak", "part-1-of-8"])
def test_what_is_no_folder_of_a_shard(name):
    assert shard_named(name) is None
