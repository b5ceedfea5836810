"""Which run ``gpuexec top`` attaches to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.cli.top import find_live_run
from gpuexec.errors import CannotAttach
from gpuexec.report import run_folder
from gpuexec.report.run_folder import RunFolder


@contextlib.contextmanager
def going_on(parent: Path, *pipelines: str) -> Iterator[list[Path]]:
    """Run folders of runs that go on, one for each pipeline."""
    names = [run_folder.folder_name(pipeline, f"{n:06x}", 1e9 + n) for n, pipeline in enumerate(pipelines)]
    folders = [RunFolder(parent, name) for name in names]
    yield [folder.path for folder in folders]
    for folder in folders:
        folder.close()


@pytest.mark.parametrize("name", ["curate", "caption images!", "🦜 🦜", "x" * 300, "<script>", "two\nlines"])
def test_a_run_is_found_by_the_name_of_its_pipeline_whatever_that_is(name, tmp_path):
    with going_on(tmp_path, name, "another", "third") as folders:
        reader, _ = find_live_run(name, str(tmp_path))
        assert reader.path == folders[0]


def test_a_path_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with going_on(tmp_path, "curate"):
        reader, _ = find_live_run("./curate", str(tmp_path))
        assert reader.path == tmp_path / "curate"


def test_of_two_runs_of_one_name_the_id_is_asked_for(tmp_path):
    with going_on(tmp_path, "a b", "a b"), pytest.raises(CannotAttach, match="2 runs of that name go on"):
        find_live_run("a b", str(tmp_path))
