"""Memory and CPU time of processes: compared with psutil's, for a process that works and one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from gpuexec.hardware.process_readings import read_process
from tests.process.waiting import wait_until


def test_memory_and_cpu_time_are_those_of_psutil():
    held = bytearray(b"x" * 30_000_000)
    spent = time.process_time()
    while time.process_time() < spent + 0.05:
        pass
    before = psutil.Process().cpu_times()
    rss, cpu_s = read_process(os.getpid())
    after = psutil.Process().cpu_times()
    rounding = 1e-6  # of the sums
    assert before.user + before.system - rounding <= cpu_s <= after.user + after.system + rounding
    assert rss == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert rss > len(held)


def test_a_name_with_brackets_and_spaces_is_no_trouble():
    rename = "import sys; open('/proc/self/comm', 'w').write(') R 1 ('); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        rss, cpu_s = read_process(process.pid)
        assert rss == pytest.approx(psutil.Process(process.pid).memory_info().rss, rel=0.1)
        assert 0 <= cpu_s < 60


def test_a_process_that_has_ended_has_no_readings_before_and_after_it_is_reaped():
    process = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert read_process(process.pid) == "the process has ended"
    process.wait()
    assert read_process(process.pid) == "the process has ended"
