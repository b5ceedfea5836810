"""Working sets against limits, over folders that look like a machine's, and of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.hardware.host_memory import HostMemory, pressure, process_rss, read_memory
from tests.unit.hardware.test_host import MIB, machine

GIB = 1024**3


def group(folder: str, limit: object, current: int, inactive_file: int = 0) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {inactive_file * MIB}\nactive_file 5\n"
    return {
        f"{folder}memory.max": str(limit if limit == "max" else limit * MIB),
        f"{folder}memory.current": str(current * MIB),
        f"{folder}memory.stat": stat,
    }


def test_this_machine():
    memory = read_memory()
    assert memory.reason is None
    assert memory.working_set_bytes > 0
    assert 0 < memory.fraction < 1


def test_page_cache_is_not_use(tmp_path: Path):
    memory = read_memory(machine(tmp_path, "0::/\n", group("", 400, current=390, inactive_file=90)))
    assert memory == HostMemory(400 * MIB, 300 * MIB, "cgroup /sys/fs/cgroup")


def test_the_ancestor_closest_to_its_limit_binds(tmp_path: Path):
    files = {
        **group("a/b/", 300, current=30),
        **group("a/", 500, current=450),
        **group("", "max", current=900),
    }
    memory = read_memory(machine(tmp_path, "0::/a/b\n", files, memory_kib=16 * 1024 * 1024))
    assert memory == HostMemory(500 * MIB, 450 * MIB, "cgroup /sys/fs/cgroup/a")


def test_a_full_machine_binds_before_a_roomy_cgroup(tmp_path: Path):
    memory = read_memory(machine(tmp_path, "0::/\n", group("", 1000, current=10)))
    assert memory == HostMemory(1024 * MIB, 512 * MIB, "the machine")


def test_v1(tmp_path: Path):
    files = {
        "memory/docker/x/memory.limit_in_bytes": str(256 * MIB),
        "memory/docker/x/memory.usage_in_bytes": str(240 * MIB),
        "memory/docker/x/memory.stat": f"cache 1\ntotal_inactive_file {40 * MIB}\n",
        "memory/memory.limit_in_bytes": str(2**63 - 4096),
        "memory/memory.usage_in_bytes": "0",
    }
    memory = read_memory(machine(tmp_path, "4:memory:/docker/x\n", files))
    assert memory == HostMemory(256 * MIB, 200 * MIB, "cgroup /sys/fs/cgroup/memory/docker/x")


def test_no_limit_means_the_machine(tmp_path: Path):
    memory = read_memory(machine(tmp_path, "0::/\n", group("", "max", current=10)))
    assert memory == HostMemory(1024 * MIB, 512 * MIB, "the machine")


def test_readings_of_two_moments_never_make_less_than_nothing(tmp_path: Path):
    files = group("", 100, current=10, inactive_file=20)
    (folder := machine(tmp_path, "0::/\n", files)).joinpath("proc/meminfo").unlink()
    assert read_memory(folder).working_set_bytes == 0


def test_nothing_readable_is_unknown_and_holds_nothing_back(tmp_path: Path):
    memory = read_memory(tmp_path)
    assert (memory.limit_bytes, memory.working_set_bytes, memory.fraction) == (None, None, None)
    held, why = pressure(memory, 0.9, 0.8, was_held=True)
    assert not held
    assert "/proc/meminfo" in why


@pytest.mark.parametrize(
    ("used", "was_held", "held"),
    [(89, False, False), (90, False, True), (89, True, True), (81, True, True), (80, True, False), (81, False, False)],
)
def test_pressure(used: int, was_held: bool, held: bool):
    decision, why = pressure(HostMemory(100 * GIB, used * GIB, "cgroup /x"), 0.9, 0.8, was_held)
    assert decision is held
    assert f"{used}.0 of 100.0 GiB ({used}%) of cgroup /x are in use" in why


@given(
    readings=st.lists(st.integers(0, 1000), max_size=40),
    waters=st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted),
)
def test_held_work_is_let_go_at_the_low_water_only(readings: list[int], waters: list[int]):
    low, high = (water / 100 for water in waters)
    held = False
    for reading in readings:
        memory = HostMemory(1000, reading, "the machine")
        before, (held, why) = held, pressure(memory, high, low, held)
        assert why
        if memory.fraction >= high:
            assert held
        elif memory.fraction <= low:
            assert not held
        else:
            assert held is before, "between the waters nothing changes"


def test_rss_of_a_process_until_it_is_gone():
    code = "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert process_rss(process.pid) > MIB
        process.communicate(b"\n")
    assert process_rss(process.pid) is None


def test_own_rss_is_what_psutil_says():
    assert process_rss(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
