"""Checks of the host, and of the limits on this process: CPUs, memory, files, processes, kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpuexec.doctor.checks.each_gpu import gpus_of
from gpuexec.doctor.facts import Facts, Limit
from gpuexec.doctor.model import Finding, Topic, check, fail, passed, unknown, warn
from gpuexec.units import GIB, KIB, format_bytes

_NPROC = "nproc; cat /sys/fs/cgroup/cpu.max"
_MORE_CPUS = "docker run --cpus={cpus} …"
_MEMORY = "ps -eo rss,pid,user,comm --sort=-rss | head"
_OOM = "sudo dmesg | grep -i -e oom -e 'killed process'"
_SHM_SIZE = "docker run --shm-size=8g …"
_SHM_MOUNT = "sudo mount -o remount,size=50% /dev/shm"
_SHM_LIST = "ls -lhS /dev/shm | head"
_FILES = "ulimit -n {limit}"
_PROCESSES = "ulimit -u {limit}"
_PIDS = "docker run --pids-limit={limit} …"
_TASKS = "sudo systemctl set-property user-$(id -u).slice TasksMax={limit}"
_UNAME = "uname -r"
_PYTHON = "uv venv --python 3.14"
_SECCOMP = "docker run --security-opt seccomp=unconfined …"
_OVERCOMMIT = "sudo sysctl vm.overcommit_memory=0"
_READ_OVERCOMMIT = "sysctl vm.overcommit_memory"
_ADDRESS_SPACE = "ulimit -v unlimited"
_SWAP = "swapon --show; free -h"
_GOVERNOR = "sudo cpupower frequency-set -g performance"
_CLOCK = "cat /sys/devices/system/clocksource/clocksource0/available_clocksource"

_THROTTLED = 0.1  # of the periods
_FULL = 0.9  # of a memory limit: from there on runs take in no new tasks (memory_high_watermark)
_SMALL_SHM = GIB  # Docker gives 64 MiB
_FULL_SHM = 0.05  # of it is free
_SWAPPED = 0.1  # of the memory
# Descriptors: what the driver itself needs at most (docs/reliability.md: 40 with ten children), and for each worker
# its socket, flight recorder, output and exit (processes/spawn.py).
_DRIVER_FILES, _WORKER_FILES = 64, 4
_WORKER_THREADS = 8  # and those of its libraries, one for each CPU of its share
_ENOUGH_FILES = 4096


@check(
    "cpu-limit",
    Topic.CONTAINER,
    source="cgroups(7); sched_getaffinity(2)",
    remedies=(_NPROC, _MORE_CPUS),
)
def cpu_limit(facts: Facts) -> Iterator[Finding]:
    """CPUs that this process may use: of the affinity mask, and of the cgroup's quota. Warns if they are less than one,
    or fewer than GPUs, or if the quota was used up in over 10 % of the periods."""
    cpus = facts.cpus
    usable, masked = cpus.host.usable_cpus, len(cpus.host.cpus)
    quota = "" if cpus.host.cpu_quota is None else f", quota {cpus.host.cpu_quota:g}"
    found = f"{usable:g} usable CPUs ({masked} in the affinity mask{quota})"
    gpus = len(gpus_of(facts.driver))
    finding = passed(found)
    if usable < 1 or usable < gpus:
        remedy = _NPROC if cpus.host.cpu_quota is None else _MORE_CPUS.format(cpus=max(1, 2 * gpus))
        finding = warn(f"{found}{f' for {gpus} GPUs' if gpus else ''}", remedy)
    yield finding
    if cpus.throttled is not None and cpus.throttled[0] > _THROTTLED * cpus.throttled[1]:
        share = cpus.throttled[0] / cpus.throttled[1]
        yield warn(f"the cgroup's CPU quota was used up in {share:.0%} of the periods", _NPROC)


@check(
    "memory-limit",
    Topic.CONTAINER,
    source="cgroups(7), memory.max and memory.events; proc(5), /proc/meminfo",
    remedies=(_MEMORY, _OOM),
)
def memory_limit(facts: Facts) -> Iterator[Finding]:
    """Memory of the cgroup or machine, whichever is closer to its limit. Fails where over 90 % are in use, so that a
    run would take in no tasks; warns if the kernel has killed processes of this cgroup for memory."""
    closest = facts.memory.closest
    if closest.fraction is None or closest.limit_bytes is None or closest.working_set_bytes is None:
        yield unknown(closest.reason or "memory cannot be read", _MEMORY)
    else:
        used, limit = format_bytes(closest.working_set_bytes), format_bytes(closest.limit_bytes)
        found = f"{used} of {limit} of {closest.source} in use ({closest.fraction:.0%})"
        yield fail(found, _MEMORY) if closest.fraction > _FULL else passed(found)
    if facts.memory.oom_kills:
        yield warn(f"the kernel has killed {facts.memory.oom_kills} process(es) of this cgroup for memory", _OOM)


@check(
    "shm",
    Topic.CONTAINER,
    source="Docker, run --shm-size (64 MiB by default); pytorch/pytorch#5040",
    remedies=(_SHM_SIZE, _SHM_MOUNT, _SHM_LIST),
)
def shm(facts: Facts) -> Iterator[Finding]:
    """The mount /dev/shm, where PyTorch's data loaders, NCCL and vLLM keep shared memory; gpuexec itself needs none.

    Fails if it is full, warns if it is not there or has less than 1 GiB.
    """
    space, in_container = facts.memory.shm, facts.container.kind is not None
    remedy = _SHM_SIZE if in_container else _SHM_MOUNT
    if space is None:
        yield warn("there is no /dev/shm that can be written", remedy)
        return
    found = f"{format_bytes(space.free)} of {format_bytes(space.total)} free"
    if space.free < _FULL_SHM * space.total:
        yield fail(f"{found}: libraries that share memory would hang", _SHM_LIST)
    elif space.total < _SMALL_SHM:
        yield warn(f"{found}: too little for data loaders, NCCL and vLLM", remedy)
    else:
        yield passed(found)


@check(
    "open-files",
    Topic.CONTAINER,
    source="getrlimit(2), RLIMIT_NOFILE; processes/spawn.py: socket, recorder, output and exit of each worker",
    remedies=(_FILES,),
)
def open_files(facts: Facts) -> Iterator[Finding]:
    """`ulimit -n` suffices for the workers of the pipeline, or for one on each CPU. Fails if not. Warns below 4,096
    where more is allowed, since a quarter of it is what may wait between stages in shared memory."""
    limit, workers = facts.limits.open_files, _workers(facts)
    needed = _DRIVER_FILES + _WORKER_FILES * workers
    if limit.soft is None:
        yield passed("no limit")
        return
    found = f"{limit.soft:,} descriptors; {workers} workers need {needed:,}"
    room = limit.hard is None or limit.hard > limit.soft
    more = _FILES.format(limit=limit.hard if limit.hard is not None else max(_ENOUGH_FILES, 2 * needed))
    if needed > limit.soft * 3 // 4:
        yield fail(found, more, "" if room else "The hard limit is as low: see limits.conf(5)")
    elif limit.soft < _ENOUGH_FILES and room:
        yield warn(f"{found}, tasks that wait in shared memory one each", more)
    else:
        yield passed(found)


@check(
    "processes",
    Topic.CONTAINER,
    source="getrlimit(2), RLIMIT_NPROC; cgroups(7), pids.max",
    remedies=(_PROCESSES, _PIDS, _TASKS),
)
def processes(facts: Facts) -> Iterator[Finding]:
    """`ulimit -u` and the cgroup's limit leave room for the workers' threads. Fails if not for the workers themselves,
    warns if not for eight threads each."""
    limits, workers = facts.limits, _workers(facts)
    rooms = [("pids.max of the cgroup", limits.pids, _PIDS if facts.container.kind else _TASKS)]
    if limits.uid != 0:  # the kernel does not hold root to it
        rooms.insert(0, ("`ulimit -u`", limits.processes, _PROCESSES))
    threads = math.ceil(facts.cpus.host.usable_cpus) + _WORKER_THREADS * workers
    told = False
    for name, limit, remedy in rooms:
        left = _left(limit)
        if limit.soft is None or left is None:
            continue
        told = True
        found = f"{name} is {limit.soft:,}, of which {left:,} are left for {workers} workers and their threads"
        command = remedy.format(limit=limit.soft + 2 * threads)
        if left < workers + 8:
            yield fail(found, command)
        elif left < threads:
            yield warn(found, command)
        else:
            yield passed(found)
    if not told:
        yield passed("no limit")


def _left(limit: Limit) -> int | None:
    return None if limit.soft is None or limit.used is None else max(0, limit.soft - limit.used)


def _workers(facts: Facts) -> int:
    """Return how many workers a run may have: those of the plan, or one on each CPU and two on each GPU."""
    if facts.target is not None and facts.target.workers:
        return facts.target.workers
    return math.ceil(facts.cpus.host.usable_cpus) + 2 * len(gpus_of(facts.driver))


@check("memfd", Topic.HOST, source="memfd_create(2); docs/adr/0001", remedies=(_UNAME, _SECCOMP))
def memfd(facts: Facts) -> Iterator[Finding]:
    """Python, kernel and sandbox offer memory files without a name, which large tasks travel in. Warns if not: then
    they are in /dev/shm, which may be small."""
    problem = facts.offers.memfd
    if problem is None:
        yield passed("offered")
    else:
        yield warn(f"{problem}: large tasks travel in files of /dev/shm instead", *_remedy(facts))


@check("pidfd", Topic.HOST, source="pidfd_open(2); docs/adr/0008", remedies=(_UNAME, _SECCOMP))
def pidfd(facts: Facts) -> Iterator[Finding]:
    """Python, kernel and sandbox offer descriptors of processes. Warns if not: then workers are spawned and import
    their modules themselves, and a thread waits for each."""
    problem = facts.offers.pidfd
    if problem is None:
        yield passed("offered")
    else:
        yield warn(f"{problem}: workers start cold, not as forks of a template", *_remedy(facts))


@check("python", Topic.HOST, source="PEP 779; tests on Python 3.11 to 3.14", remedies=(_PYTHON,))
def python(facts: Facts) -> Iterator[Finding]:
    """The version of Python is one that gpuexec is tested on. Warns if it is a free-threaded build: untested."""
    found = f"Python {facts.offers.python}"
    if facts.offers.free_threaded:
        yield warn(f"{found} is a free-threaded build: gpuexec has not been tested on any", _PYTHON)
    else:
        yield passed(found)


def _remedy(facts: Facts) -> tuple[str, str]:
    if facts.container.kind is not None:
        return _SECCOMP, "Or a newer runtime, whose filter knows these calls"
    return _UNAME, f"Linux 5.3 and Python 3.9 have both; this is {facts.offers.kernel}, Python {facts.offers.python}"


@check(
    "overcommit",
    Topic.HOST,
    source="kernel.org, Documentation/mm/overcommit-accounting; getrlimit(2), RLIMIT_AS",
    remedies=(_OVERCOMMIT, _ADDRESS_SPACE, _READ_OVERCOMMIT),
)
def overcommit(facts: Facts) -> Iterator[Finding]:
    """Processes may reserve more memory than they use: CUDA reserves addresses for all memory of GPUs and host. Warns
    with vm.overcommit_memory=2, and with `ulimit -v`."""
    memory = facts.memory
    if memory.address_space is not None:
        size = format_bytes(memory.address_space)
        yield warn(f"`ulimit -v` is {memory.address_space // KIB} ({size}): CUDA needs more addresses", _ADDRESS_SPACE)
    if memory.overcommit is None:
        yield unknown("vm.overcommit_memory cannot be read", _READ_OVERCOMMIT)
    elif memory.overcommit == 2:
        left = (
            None
            if None in (memory.commit_limit, memory.committed)
            else (memory.commit_limit or 0) - (memory.committed or 0)
        )
        room = "" if left is None else f"; {format_bytes(max(0, left))} are left to reserve"
        yield warn(f"vm.overcommit_memory=2: forks and CUDA may be refused memory{room}", _OVERCOMMIT)
    elif memory.address_space is None:
        yield passed(f"vm.overcommit_memory={memory.overcommit}")


@check("swap", Topic.HOST, source="proc(5), /proc/meminfo", remedies=(_SWAP,))
def swap(facts: Facts) -> Iterator[Finding]:
    """Memory is not on disk. Warns if swap in use is more than a tenth of the memory: workers that wait for it look
    slow."""
    memory = facts.memory
    total_memory = facts.cpus.host.memory_total_bytes
    if memory.swap_total is None or memory.swap_free is None or not total_memory:
        yield unknown("/proc/meminfo cannot be read", _SWAP)
        return
    used = memory.swap_total - memory.swap_free
    found = f"{format_bytes(used)} of {format_bytes(memory.swap_total)} in use" if memory.swap_total else "none"
    yield warn(found, _SWAP, "End what uses the memory") if used > _SWAPPED * total_memory else passed(found)


@check(
    "cpu-governor",
    Topic.HOST,
    source="kernel.org, Documentation/admin-guide/pm/cpufreq and intel_pstate; Meta's GCM, cpufreq-governor",
    remedies=(_GOVERNOR,),
)
def cpu_governor(facts: Facts) -> Iterator[Finding]:
    """CPUs run at full speed under load. Warns with the governor "powersave" where it means the lowest frequency, and
    with a preference for saving power. The drivers intel_pstate and amd-pstate-epp scale with the load under it."""
    slow = [_words(each) for each in facts.cpus.governors if _is_slow(*each)]
    if slow:
        yield warn(f"{', '.join(slow)}: the CPUs stay slow under load", _GOVERNOR)
    elif not facts.cpus.governors:
        yield passed("no choice of governor here, as in virtual machines")
    else:
        yield passed(", ".join(map(_words, facts.cpus.governors)))


def _is_slow(governor: str, driver: str, preference: str) -> bool:
    scales_itself = driver in ("intel_pstate", "amd-pstate-epp")
    return governor == "powersave" and (not scales_itself or preference == "power")


def _words(each: tuple[str, str, str]) -> str:
    governor, driver, preference = each
    return f"{governor} ({', '.join(filter(None, (driver, preference)))})" if driver else governor


@check(
    "clock-source",
    Topic.HOST,
    source="kernel.org, Documentation/timers/timekeeping; Meta's GCM, check-clocksource",
    remedies=(_CLOCK,),
)
def clock_source(facts: Facts) -> Iterator[Finding]:
    """Reading the time is cheap. Warns if the kernel reads it from a device (hpet, acpi_pm), which takes a microsecond
    each, mostly since it has found the CPU's own counter unreliable."""
    source = facts.cpus.clock_source
    if source is None:
        yield unknown("the clock source cannot be read", _CLOCK)
    elif source in ("hpet", "acpi_pm", "refined-jiffies", "jiffies"):
        yield warn(
            f"{source}: reading the time takes a microsecond or more", _CLOCK, "`sudo dmesg | grep -i tsc` says why"
        )
    else:
        yield passed(source)
