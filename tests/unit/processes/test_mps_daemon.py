"""The MPS control daemon of a run: started with folders of its own, and ended whatever happens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.errors import ConfigurationError, ResourcesError
from gpuexec.hardware.mps import ControlDaemon, daemon_pid, running_daemon
from gpuexec.processes import guardian as guardian_module
from gpuexec.processes import mps_daemon
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.mps_daemon import MpsDaemon
from tests.mps import stand_in
from tests.process.waiting import wait_until

UUIDS = ["GPU-a", "GPU-b"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short name, since pipes in it are sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(mps_daemon.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_daemon_from_start_to_end(tmp_path: Path, monkeypatch):
    program = stand_in.install(tmp_path, monkeypatch)
    daemon = MpsDaemon(UUIDS, "ab12", os.environ)
    assert stand_in.living(program) == []
    daemon.start()
    assert len(stand_in.living(program)) == 2, "itself and a server"
    running = running_daemon(daemon.variables)
    assert running == ControlDaemon(running.pid, str(daemon.folder / "pipe"))
    assert running.pid in stand_in.living(program)
    assert daemon.folder.parent == tmp_path
    assert daemon.folder.stat().st_mode & 0o777 == 0o700, "nobody else is a client"
    assert (daemon.folder / "log" / "control.log").read_text() == "GPU-a,GPU-b"
    daemon.close()
    assert stand_in.living(program) == []
    assert not daemon.folder.exists()
    daemon.close()


def test_a_daemon_that_does_not_obey_is_killed_with_its_server(tmp_path: Path, monkeypatch):
    program = stand_in.install(tmp_path, monkeypatch, "deaf")
    monkeypatch.setattr(mps_daemon, "_END_S", 0.1)
    daemon = MpsDaemon(UUIDS, "ab12", os.environ)
    daemon.start()
    assert len(stand_in.living(program)) == 2
    daemon.close()
    wait_until(lambda: not stand_in.living(program))
    assert not daemon.folder.exists()


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path, monkeypatch):
    stand_in.install(tmp_path, monkeypatch, "refuses")
    daemon = MpsDaemon(UUIDS, "ab12", os.environ)
    with pytest.raises(ResourcesError, match=r"ended with status 1\n  . Cannot create the pipes"):
        daemon.start()
    daemon.close()
    assert not daemon.folder.exists()


def test_without_nvidias_program_the_option_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="mps='start' needs the program nvidia-cuda-mps-control"):
        MpsDaemon(UUIDS, "ab12", {"PATH": str(tmp_path)})


@pytest.mark.parametrize("mode", ["", "deaf"])
def test_the_guardian_ends_the_daemon_of_a_dead_driver(tmp_path: Path, monkeypatch, mode: str):
    program = stand_in.install(tmp_path, monkeypatch, mode)
    monkeypatch.setattr(guardian_module, "_MPS_PATIENCE", 5)
    daemon = MpsDaemon(UUIDS, "ab12", os.environ)
    guardian = Guardian()
    guardian.watch_mps(daemon.program, str(daemon.folder))
    daemon.start()
    guardian._process.communicate()  # end of file, as when the driver dies
    wait_until(lambda: not stand_in.living(program))
    assert not daemon.folder.exists()


def test_the_guardian_leaves_alone_what_has_ended(tmp_path: Path, monkeypatch):
    program = stand_in.install(tmp_path, monkeypatch)
    daemon = MpsDaemon(UUIDS, "ab12", os.environ)
    guardian = Guardian()
    guardian.watch_mps(daemon.program, str(daemon.folder))
    guardian.forget_mps()
    daemon.start()
    guardian._process.communicate()
    assert len(stand_in.living(program)) == 2
    daemon.close()


def test_a_daemon_is_found_where_the_environment_says(tmp_path: Path):
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
    assert daemon_pid(tmp_path) is None, "the pid is another program's by now"
    assert running_daemon({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "none")}) is None
