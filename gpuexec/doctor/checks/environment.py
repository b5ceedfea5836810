"""Checks of what a run inherits and where it writes: environment variables, packages, folders."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gpuexec.doctor.facts import Facts, Folder
from gpuexec.doctor.model import Check, Finding, Topic, check, fail, passed, unknown, warn
from gpuexec.processes.variables import THREAD_CAPS
from gpuexec.units import GIB, format_bytes

_UNSET = "unset {variables}"
_ONE_PROCESS = "env -u RANK -u LOCAL_RANK -u WORLD_SIZE gpuexec run …"
_INSTALL = "python -m pip install {requirement}"
_PIP_LIST = "python -m pip list"
_FREE = "df -h {folder}"
_FOLDER = "ls -ld {folder}"
_ELSEWHERE = "gpuexec run … -o {option}={folder}"

_OVERSUBSCRIBED = 2.0  # threads for each CPU
_LITTLE, _FEW = GIB, 10 * GIB
# File systems of other machines. WAL, which the checkpoint's journal uses, needs memory that its users share.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"}
_IN_MEMORY = {"tmpfs", "ramfs"}
_OPTIONS = {"runs": "run_dir", "checkpoint": "checkpoint", "spill": "spill_dir"}


@check(
    "thread-variables",
    Topic.ENVIRONMENT,
    source="pytorch/torchtitan#4038, ray-project/ray#6998 and #28594",
    remedies=(_UNSET,),
)
def thread_variables(facts: Facts) -> Iterator[Finding]:
    """Inherited thread counts (OMP_NUM_THREADS and its like), which workers keep, fit the CPUs. Warns if all workers
    together would start more than two threads for each CPU."""
    usable = facts.cpus.host.usable_cpus
    workers = facts.target.workers if facts.target is not None and facts.target.workers else 1
    counts = {name: facts.variables[name] for name in THREAD_CAPS if name in facts.variables}
    many = {}
    for name, value in counts.items():
        threads = value.partition(",")[0]
        if threads.isdigit() and int(threads) * workers > max(_OVERSUBSCRIBED * usable, 1):
            many[name] = int(threads)
    for name, count in many.items():
        who = f"{workers} workers with {count} threads each" if workers > 1 else f"{count} threads in each worker"
        yield warn(f"{name}={count}: {who} on {usable:g} CPUs", _UNSET.format(variables=name))
    if not many:
        kept = ", ".join(f"{name}={value}" for name, value in counts.items())
        yield passed(f"workers keep {kept}" if kept else "none: workers get theirs from their share of the CPUs")


@check(
    "launcher-variables",
    Topic.ENVIRONMENT,
    source="PyTorch, torchrun, Environment Variables; Slurm, srun",
    remedies=(_ONE_PROCESS,),
)
def launcher_variables(facts: Facts) -> Iterator[Finding]:
    """This process is not one of several that a launcher such as torchrun has started. Warns if WORLD_SIZE and its like
    are above 1, since each of the processes would run the whole pipeline. Workers do not get such variables."""
    sizes = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    several = [name for name in sizes if facts.variables.get(name, "1") not in ("1", "")]
    if several and facts.left_out:
        found = ", ".join(f"{name}={facts.variables[name]}" for name in several)
        yield warn(f"{found}: each of these processes would run the whole pipeline", _ONE_PROCESS)
    elif facts.left_out:
        yield passed(f"workers do not get {', '.join(facts.left_out)}")
    else:
        yield passed("none")


@check(
    "versions",
    Topic.ENVIRONMENT,
    source="the packages' own requirements, as `pip check` reads them",
    remedies=(_INSTALL, _PIP_LIST),
)
def versions(facts: Facts) -> Iterator[Finding]:
    """Versions of the packages that stages import, or usually do. Fails if gpuexec itself lacks what it requires, warns
    if another package does."""
    packages = facts.packages
    for package, requirement, there in packages.conflicts:
        found = f"{package} {packages.versions.get(package, '')} requires {requirement}; {there}"
        judge = fail if package == "gpuexec" and there == "not installed" else warn
        yield judge(found, _INSTALL.format(requirement=shlex.quote(requirement)))
    if not packages.versions:
        yield unknown("no installed package can be read", _PIP_LIST)
    elif not packages.conflicts:
        yield passed(", ".join(f"{name} {version}" for name, version in packages.versions.items()))


def _folder_check(purpose: str, about: str, absent: str) -> Check:
    def look(facts: Facts) -> Iterator[Finding]:
        folder = next((each for each in facts.folders if each.purpose == purpose), None)
        if folder is None:
            yield passed(absent)
        else:
            yield from _judge_folder(folder)

    look.__doc__ = about
    name = {"runs": "run-folder", "checkpoint": "checkpoint-folder", "spill": "spill-folder"}[purpose]
    source = (
        "statvfs(3); sqlite.org/wal.html, section 1" if purpose == "checkpoint" else "statvfs(3); proc(5), mountinfo"
    )
    return check(name, Topic.FOLDERS, source=source, remedies=(_FREE, _FOLDER, _ELSEWHERE))(look)


def _judge_folder(folder: Folder) -> Iterator[Finding]:
    elsewhere = _ELSEWHERE.format(option=_OPTIONS[folder.purpose], folder="/a/folder/on/a/local/disk")
    where = folder.path if folder.exists else f"{folder.path} (not made yet)"
    quoted = shlex.quote(folder.path)
    if folder.problem is not None:
        yield fail(f"{where}: {folder.problem}", _FOLDER.format(folder=quoted), f"Or `{elsewhere}`")
        return
    problems = list(_file_system_problems(folder, where, elsewhere))
    yield from problems
    space = folder.space
    free = "" if space is None else f", {format_bytes(space.free)} free"
    if space is not None and space.free < _LITTLE:
        yield fail(f"{where}{free}", _FREE.format(folder=quoted), f"Or `{elsewhere}`")
    elif space is not None and space.free < _FEW:
        yield warn(f"{where}{free}", _FREE.format(folder=quoted), f"Or `{elsewhere}`")
    elif not problems:
        yield passed(f"{where}: {folder.file_system or 'file system not known'}{free}")


def _file_system_problems(folder: Folder, where: str, elsewhere: str) -> Iterator[Finding]:
    kind = folder.file_system or ""
    if folder.purpose == "spill" and kind in _IN_MEMORY:
        yield warn(f"{where} is in memory ({kind}): what waits between phases is not bounded", elsewhere)
    if kind in _NETWORK or kind.startswith("fuse."):
        if folder.purpose == "checkpoint":
            yield fail(f"{where} is on {kind}: the journal needs locks and shared memory of one machine", elsewhere)
        else:
            yield warn(f"{where} is on {kind}: every write goes over the network", elsewhere)


run_folder = _folder_check(
    "runs",
    "The folder of run folders can be written, is on a local disk and has room. Fails below 1 GiB, warns below 10 GiB "
    "and on a network file system.",
    "run_dir=None: runs write nothing",
)
checkpoint_folder = _folder_check(
    "checkpoint",
    "The checkpoint's folder, if `-o checkpoint=…` names one: the same, but it fails on a network file system.",
    "no checkpoint is named (-o checkpoint=FOLDER)",
)
spill_folder = _folder_check(
    "spill",
    "The folder for what waits between two phases: the same, and it warns if that lies in memory.",
    "not known",
)
