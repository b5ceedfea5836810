"""A worker's environment, and the lines it prints."""

from __future__ import annotations

import functools
import os

import pytest

from gpuexec.contract.allocation import Allocation
from gpuexec.planning.model import WorkerGrant
from gpuexec.processes.spawn import WorkerProcess, spawn
from gpuexec.processes.variables import THREAD_CAPS, worker_environment


def environment(base=None, env_vars=None, cpus=2.9, visible="GPU-1"):
    grant = WorkerGrant("s-0", 0, Allocation((), cpus, visible))
    return worker_environment(base or {}, grant.allocation, env_vars or {})


def test_threads_follow_the_cpu_share():
    assert {environment()[name] for name in THREAD_CAPS} == {"2"}
    assert environment(cpus=0.25)["OMP_NUM_THREADS"] == "1"


def test_the_users_thread_counts_win():
    assert environment({"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert environment({"OMP_NUM_THREADS": "7"}, {"OMP_NUM_THREADS": "9"})["OMP_NUM_THREADS"] == "9"
    assert environment({"OMP_NUM_THREADS": "7"})["MKL_NUM_THREADS"] == "2"


def test_the_plan_alone_decides_about_gpus():
    env = environment(
        {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    )
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-1", "PCI_BUS_ID")


@pytest.fixture
def worker():
    process = WorkerProcess("s-0", functools.partial(spawn, env=dict(os.environ)))
    yield process
    process.process.kill()
    process.process.wait()
    process.close()


def read_all(worker: WorkerProcess) -> list[str]:
    lines: list[str] = []
    still_open = True
    while still_open:
        new_lines, still_open = worker.read_output()
        lines += new_lines
    return lines


def test_lines_are_cut_at_line_ends_whatever_the_chunks(worker):
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    before, worker.output_fd = worker.output_fd, read_end
    try:
        os.write(write_end, b"one\ntw")
        assert worker.read_output() == (["one"], True)
        os.write(write_end, b"o\r\n\xff\nlast")
        assert worker.read_output() == (["two", "\N{REPLACEMENT CHARACTER}"], True)
        assert worker.read_output() == ([], True), "nothing more yet"
        os.close(write_end)
        assert worker.read_output() == (["last"], False)
        assert list(worker.last_lines) == ["one", "two", "\N{REPLACEMENT CHARACTER}", "last"]
    finally:
        worker.output_fd = before
        os.close(read_end)
