"""Worker processes at the edges: starts that fail half-way, workers that die with data still queued for them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gpuexec.channel.messages import SetUp
from gpuexec.contract.allocation import Allocation
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import Worker
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.planning.model import StagePlan, WorkerGrant
from gpuexec.processes.watch import Readiness, Watch


@pytest.fixture
def processes():
    processes = WorkerProcesses(
        run_id="abc123",
        node_id="node",
        base_env=dict(os.environ),
        log_level="DEBUG",
        task_seed=None,
        on_grants=lambda _grants: None,
    )
    yield processes
    processes.kill_all()
    processes.close()


def new_worker(payload: bytes = b"") -> Worker:
    grant = WorkerGrant("s-0", 0, Allocation((), 1.0, ""))
    return Worker(
        0, "s-0", grant, StageState(StageSpec(0, "s", 1, payload), StagePlan(0, "s", (grant,), True, "")), 0.0
    )


def test_a_start_that_fails_half_way_leaves_no_process(processes, monkeypatch):
    def refuse(*_arguments):
        raise OSError("no descriptor")

    monkeypatch.setattr(Watch, "add", refuse)
    with pytest.raises(OSError, match="no descriptor"):
        processes.start(new_worker())
    assert processes.workers == []
    (pid,) = processes.pids_so_far
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_dies_before_it_has_read_a_large_stage_is_only_an_exit(processes):
    worker = new_worker(payload=bytes(5_000_000))  # more than a socket takes at once
    pid = processes.start(worker).pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    exited = False
    while not exited and time.monotonic() < deadline:
        for _, what in processes.wait(1.0):
            if what is Readiness.MESSAGE:
                assert processes.read(worker) == []
            exited = exited or what is Readiness.EXIT
    assert exited
    processes.send(worker, SetUp())
    assert processes.read_rest(worker) == []
    assert processes.reap(worker).code == -signal.SIGKILL
    processes.disconnect(worker)


def test_entries_of_sys_path_that_are_no_paths_are_left_out(processes, monkeypatch):
    monkeypatch.setattr("sys.path", ["a", None, 3])
    processes.start(new_worker())
    assert len(processes.workers) == 1
