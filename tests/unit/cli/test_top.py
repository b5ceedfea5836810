"""Which run ``gpuexec top`` attaches to, and what it says where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.cli.top import find_live_run
from gpuexec.errors import CannotAttach
from gpuexec.live.client import attach, attach_again
from gpuexec.report import run_folder
from gpuexec.report.run_folder import RunFolder
from tests.unit.live.runs import LiveRun
from tests.unit.report.foreign import barred


@pytest.fixture
def start(tmp_path: Path):
    started = []

    def start(pipeline: str, run_id: str, at: float = 0.0) -> LiveRun:
        started.append(LiveRun(tmp_path, pipeline, run_id, at))
        return started[-1]

    yield start
    for run in started:
        if run.reader.is_live:
            run.end()


def test_a_run_is_named_by_its_pipeline_however_that_is_spelt_in_the_folder(start, tmp_path):
    run = start("my pipeline: été", "abc123")
    for name in ("my pipeline: été", "my_pipeline_t", "abc", None):
        assert find_live_run(name, str(tmp_path))[0].path == run.folder.path


def test_of_two_runs_of_one_name_only_the_one_that_goes_on_is_meant(start, tmp_path):
    first, second = start("curate", "abc123"), start("curate", "def456", 1)
    with pytest.raises(CannotAttach, match=r"2 runs of that name go on: def456 \(curate\), abc123 \(curate\)\. Give"):
        find_live_run("curate", str(tmp_path))
    second.end()
    assert find_live_run("curate", str(tmp_path))[0].path == first.folder.path


def test_a_run_of_another_user(start, tmp_path):
    run = start("curate", "abc123")
    with barred(run.folder.path):
        with pytest.raises(CannotAttach, match=r"no run goes on that can be read\. .* Permission denied"):
            find_live_run(None, str(tmp_path))
        for name in ("curate", "abc123", str(run.folder.path)):
            found, _ = find_live_run(name, str(tmp_path))
            with pytest.raises(CannotAttach, match="cannot be read: Permission denied"):
                attach(found)


def test_attaching_again_waits_until_it_is_known_whether_the_run_was_killed(start, tmp_path):
    run = start("curate", "abc123")
    run.served.end()  # the socket is gone, and the lock is held: as for a moment while a process dies
    with pytest.raises(CannotAttach, match="abc123 of pipeline 'curate' goes on, but cannot be attached to"):
        attach_again(run.reader, patience_s=0.05)
    run.folder.close()
    with pytest.raises(CannotAttach, match=r"has ended .*What it did: gpuexec report abc123"):
        attach_again(run.reader)


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
