"""CPUs and memory from affinity and cgroups, over folders that look like a machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.hardware.host import in_initial_pid_namespace, read_host, read_oom_kills

MIB = 1024**2


def machine(root: Path, cgroup: str, files: dict[str, str], memory_kib: int = 1024 * 1024) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {memory_kib} kB\nMemFree: 1 kB\nMemAvailable: {memory_kib // 2} kB\n"
    )
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine():
    host = read_host()
    assert host.cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert 0 < host.usable_cpus <= len(host.cpus)
    assert 0 < host.memory_available_bytes <= host.memory_total_bytes


def test_no_limit(tmp_path: Path):
    host = read_host(machine(tmp_path, "0::/\n", {"cpu.max": "max 100000"}))
    assert host.cpu_quota is None
    assert (host.memory_total_bytes, host.memory_available_bytes) == (1024 * MIB, 512 * MIB)


@pytest.mark.parametrize("path", ["/", "/user.slice/job"])
def test_v2_quota_of_the_tightest_ancestor(tmp_path: Path, path: str):
    files = {"cpu.max": "400000 100000", "user.slice/cpu.max": "150000 100000", "user.slice/job/cpu.max": "max 100000"}
    host = read_host(machine(tmp_path, f"0::{path}\n", files))
    assert host.cpu_quota == (4.0 if path == "/" else 1.5)
    assert host.usable_cpus == min(len(host.cpus), host.cpu_quota)


def test_v1_quota_and_limit(tmp_path: Path):
    files = {
        "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        "memory/docker/x/memory.limit_in_bytes": str(256 * MIB),
        "memory/docker/x/memory.usage_in_bytes": str(100 * MIB),
        "memory/docker/x/memory.stat": f"cache 1\ntotal_inactive_file {40 * MIB}\n",
        "memory/memory.limit_in_bytes": str(2**63 - 4096),
        "memory/memory.usage_in_bytes": "0",
    }
    host = read_host(machine(tmp_path, "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n", files))
    assert host.cpu_quota == 0.5
    assert host.memory_total_bytes == 256 * MIB
    assert host.memory_available_bytes == (256 - 60) * MIB, "page cache is not use"


def test_in_a_container_the_mount_itself_is_the_group(tmp_path: Path):
    files = {"cpu.max": "200000 100000", "memory.max": str(64 * MIB), "memory.current": str(10 * MIB)}
    host = read_host(machine(tmp_path, "0::/kubepods/pod1/abc\n", files))
    assert host.cpu_quota == 2.0
    assert host.memory_total_bytes == 64 * MIB


def test_unlimited_v1_quota(tmp_path: Path):
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    assert read_host(machine(tmp_path, "3:cpu:/\n", files)).cpu_quota is None


def test_nothing_readable_is_unknown(tmp_path: Path):
    host = read_host(tmp_path)
    assert (host.cpu_quota, host.memory_total_bytes, host.memory_available_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("cgroup", "files", "kills"),
    [
        ("0::/job\n", {"job/memory.events": "max 9\noom_kill 2\n", "memory.events": "oom_kill 5\n"}, 2),
        ("0::/of/the/host\n", {"memory.events": "oom 4\noom_kill 3\n"}, 3),
        ("4:memory:/docker/x\n", {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"}, 1),
        ("0::/\n", {"memory.events": "oom 4\n"}, None),
        ("3:cpu:/\n", {}, None),
    ],
)
def test_oom_kills_of_the_nearest_group_that_counts_them(tmp_path: Path, cgroup: str, files: dict[str, str], kills):
    assert read_oom_kills(machine(tmp_path, cgroup, files)) == kills


def test_this_machines_counter_and_namespace_can_be_read():
    assert read_oom_kills() is None or read_oom_kills() >= 0
    assert in_initial_pid_namespace() in (True, False)
