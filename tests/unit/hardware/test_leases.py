"""Leases of GPU shares: who sees them, and when they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.errors import ConfigurationError
from gpuexec.hardware import lease_folder
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import HeldLeases, node_with_leases, read_leases, with_leases
from gpuexec.hardware.model import Device, Gpu, GpuProcess, Holder, Host, Lease, LeaseAmount, MigSlice, Node
from gpuexec.hardware.waiting_line import WaitingLine

HALF = LeaseAmount(500, 0)
ME = Holder(os.getpid())
HOLDER = """
import sys
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import HeldLeases
from gpuexec.hardware.model import LeaseAmount
from gpuexec.hardware.waiting_line import WaitingLine
folder = LeaseFolder.open()
held = HeldLeases.take(folder, {"GPU-a": LeaseAmount(250, 7), "GPU-b": LeaseAmount(1000, 0)}, "words")
line = WaitingLine(folder, "words")
line.join(["GPU-c"])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> LeaseFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(lease_folder.VARIABLE, raising=False)
    return LeaseFolder.open()


@pytest.fixture
def other(folder: LeaseFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds leases, and a place in the line for a third device."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def files(folder: LeaseFolder) -> list[str]:
    return [path.name for path in folder.path.glob("*.lease")]


def test_a_lease_is_seen_until_its_process_is_killed(folder: LeaseFolder, other):
    holder = Holder(other.pid, "words")
    seen = read_leases(folder, ["GPU-a", "GPU-b", "GPU-c"])
    assert seen == {"GPU-a": (Lease(holder, 250, 7),), "GPU-b": (Lease(holder, 1000, 0),)}
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert read_leases(folder, ["GPU-a"]) == {}
    assert [name.partition(".")[0] for name in files(folder)] == ["GPU-b"], "only what was asked for is touched"
    assert read_leases(folder, ["GPU-a", "GPU-b"]) == {}
    assert files(folder) == []


def test_two_runs_of_one_process_see_each_other(folder: LeaseFolder):
    with HeldLeases.take(folder, {"GPU-a": HALF}), HeldLeases.take(folder, {"GPU-a": LeaseAmount(0, 9)}):
        assert read_leases(folder, ["GPU-a"])["GPU-a"] == (Lease(ME, 500, 0), Lease(ME, 0, 9))
        assert read_leases(folder, ["GPU-a"]), "reading them does not end them"
    assert read_leases(folder, ["GPU-a"]) == {}
    assert files(folder) == []


def test_a_lease_grows_with_what_the_run_is_granted(folder: LeaseFolder):
    with HeldLeases.take(folder, {"GPU-a": HALF}) as held:
        held.cover({"GPU-a": LeaseAmount(250, 0)})
        assert read_leases(folder, ["GPU-a"])["GPU-a"] == (Lease(ME, 500, 0),)
        held.cover({"GPU-a": LeaseAmount(250, 8), "GPU-b": HALF})
        assert read_leases(folder, ["GPU-a", "GPU-b"]) == {
            "GPU-a": (Lease(ME, 500, 8),),
            "GPU-b": (Lease(ME, 500, 0),),
        }


def test_a_forked_child_does_not_keep_a_lease(folder: LeaseFolder):
    held = HeldLeases.take(folder, {"GPU-a": HALF})
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    try:
        held.close()
        assert read_leases(folder, ["GPU-a"]) == {}
    finally:
        os.close(writes)
        os.close(reads)
        os.waitpid(child, 0)


def test_an_ancestors_lease_is_not_anothers(folder: LeaseFolder):
    code = (
        "from gpuexec.hardware.lease_folder import LeaseFolder; from gpuexec.hardware.leases import read_leases;"
        "print(read_leases(LeaseFolder.open(), ['GPU-a']))"
    )
    with HeldLeases.take(folder, {"GPU-a": HALF}):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"{}\n"


def test_the_same_pid_in_another_namespace_is_no_ancestor(folder: LeaseFolder, monkeypatch):
    """Every container has a process 1."""
    with HeldLeases.take(folder, {"GPU-a": HALF}):
        (path,) = folder.path.glob("*.lease")
        path.write_text(path.read_text().replace(str(os.getpid()), str(os.getppid())).replace("pid:[", "pid:[9"))
        lease_folder._own.pop(path)
        (lease,) = read_leases(folder, ["GPU-a"])["GPU-a"]
        assert lease.holder == Holder(os.getppid(), elsewhere=True)
        assert str(lease.holder) == f"pid {os.getppid()}, in another pid namespace"
        device = Device(0, "GPU-a", "GPU", None, None, processes=(GpuProcess(os.getpid(), 1, "compute"),))
        assert not with_leases([device], {"GPU-a": (lease,)})[0].processes[0].holds_lease


@pytest.mark.parametrize("text", ["of a later version", "[]", "{}", '{"pid": "x", "pid_namespace": ""}'])
def test_a_lease_that_cannot_be_read_holds_the_whole_device(folder: LeaseFolder, text: str):
    with HeldLeases.take(folder, {"GPU-a": HALF}):
        (path,) = folder.path.glob("*.lease")
        path.write_text(text)
        lease_folder._own.pop(path)
        (lease,) = read_leases(folder, ["GPU-a"])["GPU-a"]
        assert (lease.thousandths, lease.holder.pid) == (1000, 0)


def test_planning_goes_on_if_a_stopped_run_holds_the_lock(folder: LeaseFolder, monkeypatch):
    monkeypatch.setattr(lease_folder, "_PATIENCE_S", 0.05)
    with folder.locked(), folder.locked():
        pass


def test_processes_of_leaseholders_are_marked():
    own, lease = os.getpid(), Lease(Holder(os.getppid()), 500, 0)
    processes = (GpuProcess(own, 1, "compute"), GpuProcess(1, 1, "compute"))
    devices = (Device(0, "GPU-a", "GPU", None, None, processes=processes), Device(1, "GPU-b", "GPU", None, None))
    first, second = with_leases(devices, {"GPU-a": (lease,)})
    assert [process.holds_lease for process in first.processes] == [True, False]
    assert (first.leases, second) == ((lease,), devices[1])


def test_a_node_shows_the_leases_of_its_gpus_and_slices(folder: LeaseFolder):
    mig = MigSlice(0, "MIG-a", None, None, None, None, None, None)
    node = Node(
        Host("here", (0,), None, None, None), (Gpu(0, "GPU-a"), Gpu(1, "GPU-b", mig_slices=(mig,)), Gpu(2, None))
    )
    with HeldLeases.take(folder, {"GPU-a": HALF, "MIG-a": LeaseAmount(0, 2**30)}, "words"):
        first, second, _ = node_with_leases(node, folder).gpus
    assert [f"{lease} by {lease.holder}" for lease in first.leases] == [
        f"0.5 of it by pid {os.getpid()}, pipeline 'words'"
    ]
    assert [str(lease) for lease in second.mig_slices[0].leases] == ["1.00 GiB"]


# ---- folders -------------------------------------------------------------------------------------------


def test_a_folder_of_another_place_is_an_error(tmp_path: Path, monkeypatch):
    (tmp_path / "gpuexec").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(OSError, match="gpuexec"):
        LeaseFolder.open()


def test_a_folder_for_all_users(tmp_path: Path):
    shared = LeaseFolder.open(str(tmp_path / "leases"), {})
    assert shared.path.stat().st_mode & 0o7777 == 0o1777, "as /tmp"
    assert LeaseFolder.open(None, {lease_folder.VARIABLE: str(tmp_path / "leases")}).path == shared.path
    mask = os.umask(0o077)
    try:
        with shared.locked(), HeldLeases.take(shared, {"GPU-a": HALF}):
            modes = {path.suffix: path.stat().st_mode & 0o777 for path in shared.path.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {"": 0o666, ".lease": 0o644}, "others may lock the one and read the other"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_configured_folder_that_cannot_be_used_is_refused(tmp_path: Path, make):
    make(tmp_path / "leases")
    with pytest.raises(ConfigurationError, match=r"lease_dir='.*leases' cannot be used .*install -d -m 1777"):
        LeaseFolder.open(str(tmp_path / "leases"))
    with pytest.raises(ConfigurationError, match=r"GPUEXEC_LEASE_DIR='.*missing/leases' cannot be used"):
        LeaseFolder.open(None, {lease_folder.VARIABLE: str(tmp_path / "missing" / "leases")})


AS_NOBODY = """
import os, sys
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import HeldLeases, read_leases
from gpuexec.hardware.model import LeaseAmount
os.setgid(65534)
os.setuid(65534)
folder = LeaseFolder.open()
with folder.locked():
    (seen,) = read_leases(folder, ["GPU-a"])["GPU-a"]
    held = HeldLeases.take(folder, {"GPU-d": LeaseAmount(0, 2**30)}, "theirs")
print(f"{seen} by {seen.holder}", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_sees_a_lease_and_cannot_end_it():
    with contextlib.ExitStack() as cleanup:
        parent = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        parent.chmod(0o755)
        shared = LeaseFolder.open(str(parent / "leases"), {})

        def start(code: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, lease_folder.VARIABLE: str(shared.path)},
            )
            cleanup.enter_context(process)
            cleanup.callback(process.kill)
            return process

        ours = start(HOLDER)
        assert ours.stdout.readline() == "held\n"
        theirs = start(AS_NOBODY)
        assert theirs.stdout.readline() == f"0.25 of it and 0.00 GiB by pid {ours.pid}, pipeline 'words', user root\n"
        (lease,) = read_leases(shared, ["GPU-d"])["GPU-d"]
        assert str(lease.holder) == f"pid {theirs.pid}, pipeline 'theirs', user nobody"
        theirs.kill()
        theirs.wait()
        assert read_leases(shared, ["GPU-d"]) == {}


# ---- the line ------------------------------------------------------------------------------------------


def test_who_came_first_is_ahead_of_all_others_for_the_same_devices(folder: LeaseFolder):
    first, second, third = (WaitingLine(folder, name) for name in ("first", "second", "third"))
    first.join(["GPU-a"])
    assert second.ahead(["GPU-a", "GPU-b"]) == (Holder(os.getpid(), "first"),), "whoever comes later is behind"
    assert second.ahead(["GPU-b"]) == ()
    second.join(["GPU-a", "GPU-b"])
    second.join(["GPU-a", "GPU-b"])
    third.join(["GPU-b"])
    assert [holder.pipeline for holder in third.ahead(["GPU-b"])] == ["second"]
    assert first.ahead(["GPU-a"]) == ()
    first.leave()
    assert second.ahead(["GPU-a"]) == ()
    second.leave()
    third.leave()
    assert list(folder.held(".waits")) == []


def test_a_place_in_the_line_ends_with_its_process(folder: LeaseFolder, other):
    mine = WaitingLine(folder, "mine")
    assert mine.ahead(["GPU-c"]) == (Holder(other.pid, "words"),)
    mine.join(["GPU-c"])
    other.kill()
    other.wait()
    assert mine.ahead(["GPU-c"]) == ()
    mine.leave()
