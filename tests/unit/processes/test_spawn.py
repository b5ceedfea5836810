"""A worker's environment, and the lines it prints."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from gpuexec.contract.allocation import Allocation
from gpuexec.plan.model import WorkerGrant
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.spawn import THREAD_CAPS, WorkerProcess, worker_environment


def environment(base=None, env_vars=None, cpus=2.9, shown="GPU-1"):
    grant = WorkerGrant("s-0", 0, Allocation((), cpus, shown))
    return worker_environment(base or {}, grant, env_vars or {})


def test_threads_follow_the_cpu_share():
    assert {environment()[name] for name in THREAD_CAPS} == {"2"}
    assert environment(cpus=0.25)["OMP_NUM_THREADS"] == "1"


def test_the_user_decides_about_threads():
    assert environment({"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert environment({"OMP_NUM_THREADS": "7"}, {"OMP_NUM_THREADS": "9"})["OMP_NUM_THREADS"] == "9"
    assert environment({"OMP_NUM_THREADS": "7"})["MKL_NUM_THREADS"] == "2"


def test_nobody_but_the_plan_decides_about_gpus():
    env = environment(
        {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    )
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-1", "PCI_BUS_ID")


@pytest.fixture
def worker():
    process = WorkerProcess("s-0", dict(os.environ))
    yield process
    process.process.kill()
    process.process.wait()
    process.close()


def read_all(worker: WorkerProcess) -> list[str]:
    lines, still_open = [], True
    while still_open:
        fresh, still_open = worker.read_output()
        lines += fresh
    return lines


def test_lines_are_cut_at_line_ends_whatever_the_chunks(worker):
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    before, worker.output_fd = worker.output_fd, ours
    try:
        os.write(theirs, b"one\ntw")
        assert worker.read_output() == (["one"], True)
        os.write(theirs, b"o\r\n\xff\nlast")
        assert worker.read_output() == (["two", "\N{REPLACEMENT CHARACTER}"], True)
        assert worker.read_output() == ([], True), "nothing more yet"
        os.close(theirs)
        assert worker.read_output() == (["last"], False)
        assert list(worker.last_lines) == ["one", "two", "\N{REPLACEMENT CHARACTER}", "last"]
    finally:
        worker.output_fd = before
        os.close(ours)


def test_an_endless_line_is_not_kept_for_ever(worker):
    ours, theirs = os.pipe()
    before, worker.output_fd = worker.output_fd, ours
    try:
        os.write(theirs, b"x" * 20_000)
        lines, _ = worker.read_output()
        assert lines == ["x" * 20_000]
    finally:
        worker.output_fd = before
        os.close(ours)
        os.close(theirs)


def test_a_guardian_kills_the_groups_it_still_watches():
    guardian = Guardian()
    kept, forgotten = (subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(2))
    guardian.watch(kept.pid)
    guardian.watch(forgotten.pid)
    guardian.forget(forgotten.pid)
    guardian._process.communicate()  # end of file, as when the driver dies
    assert kept.wait() == -signal.SIGKILL
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_a_dismissed_guardian_kills_nobody_and_a_dead_one_is_no_trouble():
    guardian = Guardian()
    process = subprocess.Popen(["sleep", "1000"], process_group=0)
    guardian.watch(process.pid)
    guardian.dismiss()
    guardian.watch(process.pid)
    assert process.poll() is None
    process.kill()
    process.wait()
