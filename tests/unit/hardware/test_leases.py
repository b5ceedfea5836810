"""Leases of GPU shares: who sees them, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.hardware import leases
from gpuexec.hardware.leases import LeaseFolder, with_leases
from gpuexec.hardware.model import Device, GpuProcess, Lease, LeaseAmount

HALF = LeaseAmount(500, 0)
HOLDER = """
import sys
from gpuexec.hardware.leases import LeaseFolder
from gpuexec.hardware.model import LeaseAmount
held = LeaseFolder.open().hold({"GPU-a": LeaseAmount(250, 7), "GPU-b": LeaseAmount(1000, 0)})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> LeaseFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return LeaseFolder.open()


@pytest.fixture
def other(folder: LeaseFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds leases."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def files(folder: LeaseFolder) -> list[str]:
    return [path.name for path in folder.path.glob("*.lease")]


def test_a_lease_is_seen_until_its_process_is_killed(folder: LeaseFolder, other):
    seen = folder.read(["GPU-a", "GPU-b", "GPU-c"])
    assert seen == {"GPU-a": (Lease(other.pid, 250, 7),), "GPU-b": (Lease(other.pid, 1000, 0),)}
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert folder.read(["GPU-a"]) == {}
    assert [name.partition(".")[0] for name in files(folder)] == ["GPU-b"], "only what was asked for is touched"
    assert folder.read(["GPU-a", "GPU-b"]) == {}
    assert files(folder) == []


def test_two_runs_of_one_process_see_each_other(folder: LeaseFolder):
    with folder.hold({"GPU-a": HALF}), folder.hold({"GPU-a": LeaseAmount(0, 9)}):
        assert folder.read(["GPU-a"])["GPU-a"] == (Lease(os.getpid(), 500, 0), Lease(os.getpid(), 0, 9))
        assert folder.read(["GPU-a"]), "reading them does not end them"
    assert folder.read(["GPU-a"]) == {}
    assert files(folder) == []


def test_a_lease_grows_with_what_the_run_is_granted(folder: LeaseFolder):
    with folder.hold({"GPU-a": HALF}) as held:
        held.cover({"GPU-a": LeaseAmount(250, 0)})
        assert folder.read(["GPU-a"])["GPU-a"] == (Lease(os.getpid(), 500, 0),)
        held.cover({"GPU-a": LeaseAmount(250, 8), "GPU-b": HALF})
        assert folder.read(["GPU-a", "GPU-b"]) == {
            "GPU-a": (Lease(os.getpid(), 500, 8),),
            "GPU-b": (Lease(os.getpid(), 500, 0),),
        }


def test_a_forked_child_does_not_keep_a_lease(folder: LeaseFolder):
    held = folder.hold({"GPU-a": HALF})
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    try:
        held.close()
        assert folder.read(["GPU-a"]) == {}
    finally:
        os.close(writes)
        os.close(reads)
        os.waitpid(child, 0)


def test_an_ancestors_lease_is_not_anothers(folder: LeaseFolder):
    code = "from gpuexec.hardware.leases import LeaseFolder; print(LeaseFolder.open().read(['GPU-a']))"
    with folder.hold({"GPU-a": HALF}):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"{}\n"


def test_a_lease_that_cannot_be_read_holds_the_whole_device(folder: LeaseFolder):
    with folder.hold({"GPU-a": HALF}):
        (path,) = folder.path.glob("*.lease")
        path.write_text("of a later version")
        leases._own.pop(path)
        assert folder.read(["GPU-a"])["GPU-a"] == (Lease(0, 1000, 0),)


def test_planning_goes_on_if_a_stopped_run_holds_the_lock(folder: LeaseFolder, monkeypatch):
    monkeypatch.setattr(leases, "_PATIENCE_S", 0.05)
    with folder.locked(), folder.locked():
        pass


def test_processes_of_leaseholders_are_marked():
    own = os.getpid()
    processes = (GpuProcess(own, 1, "compute"), GpuProcess(1, 1, "compute"))
    devices = (Device(0, "GPU-a", "GPU", None, None, processes=processes), Device(1, "GPU-b", "GPU", None, None))
    first, second = with_leases(devices, {"GPU-a": (Lease(os.getppid(), 500, 0),)})
    assert [process.holds_lease for process in first.processes] == [True, False]
    assert (first.leases, second) == ((Lease(os.getppid(), 500, 0),), devices[1])


def test_a_folder_of_another_place_is_an_error(tmp_path: Path, monkeypatch):
    (tmp_path / "gpuexec").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(OSError, match="gpuexec"):
        LeaseFolder.open()
