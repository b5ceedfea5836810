"""What the kernel says of the host, over folders that look like a machine's, and on this machine."""

from __future__ import annotations

import os
import resource

import pytest

from gpuexec.doctor.facts import ContainerFacts, Limit, Space
from gpuexec.doctor.readers import host
from gpuexec.doctor.readers.files import numbers_in_list
from tests.unit.doctor.readers.roots import files

GIB = 1024**3
MEMINFO = "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapTotal: 1024 kB\nSwapFree: 512 kB\nCommitLimit: 4 kB\n"
NODE = "sys/devices/system/node"
CPU = "sys/devices/system/cpu"


def test_cpus(tmp_path):
    root = files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/self/status": "Name:\tpython\nMems_allowed_list:\t0,2-3\n",
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/job/cpu.max": "150000 100000",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 9\nnr_periods 100\nnr_throttled 30\n",
            "sys/fs/cgroup/cpu.stat": "nr_periods 0\nnr_throttled 0\n",
            f"{NODE}/node0/cpulist": "0-1\n",
            f"{NODE}/node1/cpulist": "2,3\n",
            f"{NODE}/online": "0-1",
            f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
            f"{CPU}/cpu0/cpufreq/energy_performance_preference": "power\n",
            f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
        },
    )
    cpus = host.read_cpus(root)
    assert cpus.host.cpu_quota == 1.5
    assert cpus.throttled == (30, 100)
    assert cpus.numa_nodes == {0: (0, 1), 1: (2, 3)}
    assert cpus.memory_nodes == (0, 2, 3)
    assert cpus.governors == (("performance", "", ""), ("powersave", "intel_pstate", "power"))
    assert cpus.clock_source == "hpet"


def test_what_is_not_there_is_unknown(tmp_path):
    cpus, memory = host.read_cpus(tmp_path), host.read_memory_facts(tmp_path)
    assert (cpus.throttled, cpus.numa_nodes, cpus.memory_nodes, cpus.governors) == (None, {}, None, ())
    assert (memory.swap_total, memory.overcommit, memory.shm, memory.oom_kills) == (None, None, None, None)
    assert memory.closest.fraction is None
    limits = host.read_limits(tmp_path)
    assert (limits.open_files.used, limits.processes.used, limits.pids) == (None, None, Limit(None))
    assert host.uptime_s(tmp_path) is None


def test_memory(tmp_path):
    root = files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/meminfo": MEMINFO,
            "proc/sys/vm/overcommit_memory": "2\n",
            "sys/fs/cgroup/job/memory.max": str(GIB),
            "sys/fs/cgroup/job/memory.current": str(GIB * 3 // 4),
            "sys/fs/cgroup/job/memory.events": "oom_kill 2\n",
            "dev/shm/x": "",
        },
    )
    memory = host.read_memory_facts(root)
    assert (memory.swap_total, memory.swap_free, memory.commit_limit) == (2**20, 2**19, 4096)
    assert (memory.overcommit, memory.oom_kills, memory.committed) == (2, 2, None)
    assert (memory.closest.fraction, memory.closest.source) == (0.75, "cgroup /sys/fs/cgroup/job")
    found = os.statvfs(tmp_path)
    assert memory.shm == Space(found.f_blocks * found.f_frsize, memory.shm.free)


def test_limits(tmp_path):
    uid = os.getuid()
    mine, others = f"Name: a\nUid:\t{uid}\t{uid}\nThreads:\t3\n", f"Uid:\t{uid + 1}\t0\nThreads:\t9\n"
    root = files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "proc/self/fd/0": "",
            "proc/self/fd/1": "",
            "proc/10/status": mine,
            "proc/11/status": mine,
            "proc/12/status": others,
            "sys/fs/cgroup/a/pids.max": "100",
            "sys/fs/cgroup/a/pids.current": "90",
            "sys/fs/cgroup/a/b/pids.max": "50",
            "sys/fs/cgroup/a/b/pids.current": "5",
        },
    )
    limits = host.read_limits(root)
    assert (limits.open_files.used, limits.processes.used, limits.uid) == (2, 6, uid)
    assert limits.pids == Limit(100, 100, 90), "the one that leaves the least room"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits.open_files.soft == (None if soft == resource.RLIM_INFINITY else soft)
    assert limits.open_files.hard == (None if hard == resource.RLIM_INFINITY else hard)


@pytest.mark.parametrize(
    ("contents", "environ", "kind"),
    [
        ({}, {}, None),
        ({".dockerenv": ""}, {}, "Docker"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ({"run/.containerenv": ""}, {}, "Podman"),
        ({".singularity.d/env": ""}, {}, "Apptainer"),
        ({"run/systemd/container": "lxc\n"}, {}, "lxc"),
        ({}, {"container": "systemd-nspawn"}, "systemd-nspawn"),
    ],
)
def test_containers(tmp_path, contents, environ, kind):
    root = files(tmp_path, {**contents, "proc/self/ns/pid": "-> pid:[4026531836]"})
    assert host.read_container(root, environ) == ContainerFacts(kind, in_initial_pid_namespace=True)


def test_another_pid_namespace(tmp_path):
    root = files(tmp_path, {"proc/self/ns/pid": "-> pid:[4026532201]"})
    assert not host.read_container(root, {}).in_initial_pid_namespace


def test_this_machine():
    assert host.read_cpus().host.cpus
    assert host.read_memory_facts().closest.fraction
    limits = host.read_limits()
    assert limits.open_files.used >= 3
    assert limits.processes.used >= 1
    assert host.uptime_s() > 0
    offers = host.read_offers()
    assert (offers.memfd, offers.pidfd) == (None, None)
    assert offers.kernel.startswith("Linux ")


def test_what_a_sandbox_refuses(monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    offers = host.read_offers()
    assert (offers.memfd, offers.pidfd) == (
        "memfd_create: Operation not permitted",
        "pidfd_open: Operation not permitted",
    )
    monkeypatch.delattr(os, "memfd_create")
    assert host.read_offers().memfd == "this Python has no os.memfd_create"


@pytest.mark.parametrize(("text", "numbers"), [("", ()), ("3", (3,)), ("0-2,5,7-8\n", (0, 1, 2, 5, 7, 8))])
def test_lists_of_the_kernel(text, numbers):
    assert numbers_in_list(text) == numbers
