"""Which interpreter workers run in."""

from __future__ import annotations

import multiprocessing.spawn
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec.errors import ConfigurationError
from gpuexec.processes.interpreter import interpreter


def test_it_is_usually_this_one():
    assert interpreter() == sys.executable


@pytest.mark.parametrize("embedding", ["/usr/bin/uwsgi", "", None])
def test_a_program_that_python_is_embedded_in_is_none(monkeypatch, embedding):
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", embedding)
    monkeypatch.setattr(sys, "executable", embedding)
    found = interpreter()
    version = subprocess.run(
        [found, "-c", "import sys; print(sys.version)"], check=True, capture_output=True, text=True
    )
    assert version.stdout.strip() == sys.version


def test_what_multiprocessing_was_told_is_taken(monkeypatch):
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/opt/other")
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert interpreter() == "/opt/other"


def test_another_name_is_taken_if_nothing_else_is_there(monkeypatch, tmp_path: Path):
    for name in ("exec_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/opt/app")
    monkeypatch.setattr(sys, "executable", "/opt/app")
    assert interpreter() == "/opt/app"


def test_where_there_is_none_the_error_says_what_to_set(monkeypatch, tmp_path: Path):
    for name in ("exec_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", None)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ConfigurationError, match=f"no Python .* in {tmp_path}/bin. Set sys.executable"):
        interpreter()
