"""Why the system refuses a new process, and what to do about it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

from gpuexec.hardware.host import cgroup_folders

_FEWER = "or have fewer workers (num_workers() of the stage, the executor's option cpus)"


def why_refused(error: OSError) -> str:
    """Describe in a sentence which limit was reached, as far as it can be known, and which setting raises it."""
    code = error.errno
    if code == errno.EAGAIN:
        limits = "; ".join(_process_limits()) or "no limit on processes can be read here"
        return f"the limit on processes and threads is reached ({error}): {limits}. Raise it, {_FEWER}"
    if code == errno.EMFILE:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        more = "" if hard == resource.RLIM_INFINITY else f", at most {hard}"
        return (
            f"this process has as many open files as it may ({error}): `ulimit -n` is {soft}. Raise it with "
            f"`ulimit -n`{more}, {_FEWER}"
        )
    if code == errno.ENFILE:
        return f"the machine has as many open files as it may ({error}): raise `sysctl fs.file-max`, {_FEWER}"
    if code == errno.ENOMEM:
        limits = "; ".join(_memory_limits()) or "no limit is set, so the machine's memory is used up or overcommitted"
        return (
            f"there is not enough memory for a new process ({error}): {limits}. Raise the limit, allow "
            f"`sysctl vm.overcommit_memory=1`, {_FEWER}"
        )
    return f"the system refuses it ({type(error).__name__}: {error})"


def _process_limits() -> Iterator[str]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY:
        yield f"`ulimit -u` of this user is {soft}"
    for folder in cgroup_folders():
        limit, used = _read(folder / "pids.max"), _read(folder / "pids.current")
        if limit not in (None, "max"):
            yield f"pids.max of the cgroup {folder} is {limit}, of which {used or 'an unknown number'} are used"
    for name in ("kernel/threads-max", "kernel/pid_max"):
        limit = _read(Path("/proc/sys") / name)
        if limit is not None:
            yield f"`sysctl {name.replace('/', '.')}` is {limit}"


def _memory_limits() -> Iterator[str]:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield f"`ulimit -v` is {soft // 1024}"
    for folder in cgroup_folders():
        limit = _read(folder / "memory.max")
        if limit not in (None, "max"):
            yield f"memory.max of the cgroup {folder} is {limit}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
