"""``gpuexec report`` and ``gpuexec trace`` where a file cannot be written or a port cannot be used."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuexec.cli import app
from gpuexec.errors import ConfigurationError, RunNotFound
from gpuexec.report import run_folder
from gpuexec.report.run_folder import RunFolder
from tests.unit.report import sample_reports


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a report and no page."""
    made = RunFolder(tmp_path, run_folder.folder_name("p", "abc123", 1e9))
    made.write(run_folder.REPORT, json.dumps(sample_reports.one_task()).encode())
    made.close()
    return made.path


def called(*arguments: object) -> str:
    """Return what a command prints. Raises what it raises."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_page_that_is_missing_is_made(folder: Path):
    assert f"page: {folder / run_folder.PAGE}" in called("report", folder)
    assert (folder / run_folder.PAGE).stat().st_mode & 0o777 == 0o600
    assert "<html" in (folder / run_folder.PAGE).read_text()


def test_a_page_that_cannot_be_made_is_not_said_to_be_there(folder: Path):
    (folder / f".{run_folder.PAGE}.new").mkdir()  # in a folder that cannot be written, everybody but root sees the same
    assert "page: none, " in called("report", folder)
    for way in ("--open", "--serve"):
        with pytest.raises(RunNotFound, match="is missing and cannot be made"):
            called("report", folder, way)
    assert not (folder / run_folder.PAGE).exists()


def test_a_port_that_is_taken_is_named(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigurationError, match="cannot be used"):
        called("report", folder, "--serve", "--port", taken.getsockname()[1])


def test_a_port_that_is_none_is_refused(folder: Path):
    assert CliRunner().invoke(app, ["report", str(folder), "--serve", "--port", "70000"]).exit_code == 2


def test_a_copy_of_a_trace_that_cannot_be_written_is_an_error_that_names_it(folder: Path):
    (folder / run_folder.TRACE).write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"--output /proc/nothing: .*No such file"):
        called("trace", folder, "--output", "/proc/nothing")
    called("trace", folder, "--output", folder / run_folder.TRACE)  # onto itself
    assert (folder / run_folder.TRACE).read_bytes() == b"x"
