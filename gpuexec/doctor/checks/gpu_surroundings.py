"""Checks of what is around the GPUs: faults in the kernel log, MPS, NUMA nodes, pids in containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuexec.doctor.checks.each_gpu import REBOOT, RESET_ADVICE, RESET_GPU, gpus_of, without_gpus
from gpuexec.doctor.facts import Facts, MpsDaemon, XidEntry
from gpuexec.doctor.model import Finding, Topic, check, fail, passed, unknown, warn
from gpuexec.doctor.readers.driver import user_name
from gpuexec.hardware.health import RecoveryAction
from gpuexec.hardware.model import LinkKind, Node
from gpuexec.hardware.xids import XIDS, Advice, Xid

_XID_LINES = "sudo dmesg | grep -i xid"
_REPORT = "sudo nvidia-bug-report.sh"
_UPDATE = "sudo ubuntu-drivers install"
_NVLINK = "nvidia-smi nvlink -s"
_START_MPS = "nvidia-cuda-mps-control -d"
_QUIT_MPS = "echo quit | sudo nvidia-cuda-mps-control"
_UNSET = "unset {variables}"
_REMOVE_PIPE = "rm -r {folder}"
_TOPOLOGY = "nvidia-smi topo -m"
_TASKSET = "taskset -c {cpus} gpuexec run …"
_NUMACTL = "numactl --membind={nodes} gpuexec run …"
_HOST_PIDS = "docker run --pid=host …"

_DAY_S = 86_400.0
_MPS_VARIABLES = ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_CLIENT_PRIORITY")
_SERVER = "nvidia-cuda-mps-server"

# What NVIDIA advises, in words, with a command. The others are no cause to do anything.
_REMEDIES = {
    Advice.RESET_GPU: ("reset the GPU", RESET_GPU),
    Advice.WORKFLOW_XID_48: ("reset the GPU", RESET_GPU),
    Advice.WORKFLOW_NVLINK_ERR: ("look at the NVLinks, and reset the GPU", _NVLINK),
    Advice.WORKFLOW_NVLINK5_ERR: ("look at the NVLinks, and reset the GPU", _NVLINK),
    Advice.RESTART_BM: ("restart the machine", REBOOT),
    Advice.RESTART_VM: ("restart the virtual machine", REBOOT),
    Advice.CHECK_MECHANICALS: ("look at power cables and seat of the card", _XID_LINES),
    Advice.CHECK_UVM: ("look at the other messages beside it", _XID_LINES),
    Advice.UPDATE_SWFW: ("update driver and firmware", _UPDATE),
    Advice.CONTACT_SUPPORT: ("ask for support, with this report", _REPORT),
    Advice.RESTART_APP: ("restart the program", _XID_LINES),
}
_MILD = {Advice.RESTART_APP, Advice.IGNORE, Advice.WORKFLOW_XID_45, Advice.XID_154}


@check(
    "xids",
    Topic.GPU,
    source="NVIDIA, Analyzing Xid Errors with the Xid Catalog; Meta's GCM, check-syslogs xid",
    remedies=(_XID_LINES, _REPORT, _UPDATE, _NVLINK, REBOOT, RESET_GPU),
)
def xids(facts: Facts) -> Iterator[Finding]:
    """The XIDs in the kernel log since the machine was started, with what NVIDIA advises. Fails if one calls for a
    reset or service and the driver still asks for it, or does not say. Warns of the others, up to a day old."""
    log = facts.kernel_log
    nothing = without_gpus(facts)
    if log.reason and nothing is not None and nothing.outcome == "pass":
        yield nothing
    elif log.reason:
        yield unknown(f"the kernel log cannot be read: {log.reason}", _XID_LINES)
    else:
        groups: dict[tuple[str, int], list[XidEntry]] = {}
        for entry in log.xids:
            groups.setdefault((entry.pci, entry.number), []).append(entry)
        for (pci, number), entries in groups.items():
            yield _judge_xid(pci, number, entries, facts)
        if not log.xids:
            yield passed(f"none in {log.source}")


def _judge_xid(pci: str, number: int, entries: Sequence[XidEntry], facts: Facts) -> Finding:
    xid = XIDS.get(number, Xid("not in this program's copy of NVIDIA's catalogue", Advice.CONTACT_SUPPORT))
    newest = min((entry.seconds_ago for entry in entries if entry.seconds_ago is not None), default=None)
    ago = "" if newest is None else f", last {_ago(newest)} ago"
    times = f"{len(entries)} times" if len(entries) > 1 else "once"
    index = _index_of(pci, facts)
    place = "" if index is not None else f" of the GPU at {pci}"
    found = f"XID {number}{place} ({xid.what}), {times}{ago}"
    words, command = _REMEDIES.get(xid.advice, ("", ""))
    advice = f"NVIDIA advises: {xid.advice}" + (f", {words}" if words else "")
    gpus = () if index is None else (index,)
    if xid.advice not in _MILD:
        if _asks_for_nothing(index, facts):
            text = f"{found}; the driver asks for nothing now, so it has been dealt with since"
            return _with_gpus(warn(text, _XID_LINES, advice), gpus)
        remedy = _XID_LINES if not gpus and "{gpus}" in command else command
        return _with_gpus(fail(found, remedy, f"{advice}. {RESET_ADVICE}" if command == RESET_GPU else advice), gpus)
    if xid.advice is Advice.RESTART_APP and (newest is None or newest < _DAY_S):
        return _with_gpus(warn(found, command, advice), gpus)
    return _with_gpus(passed(found), gpus)


def _with_gpus(finding: Finding, gpus: tuple[int, ...]) -> Finding:
    return Finding(finding.outcome, finding.found, finding.remedy, finding.advice, gpus)


def _index_of(pci: str, facts: Facts) -> int | None:
    """Return the GPU with a bus id as the log has it: without the function, and sometimes without the domain."""
    wanted = pci.lower().split(".")[0].split(":")[-2:]
    for gpu in facts.driver.node.gpus:
        if (gpu.pci_bus_id or "").lower().split(".")[0].split(":")[-2:] == wanted:
            return gpu.index
    return None


def _asks_for_nothing(index: int | None, facts: Facts) -> bool:
    """Return whether the driver says that a GPU needs no recovery."""
    return any(
        one.health.recovery_action == RecoveryAction.NONE for one in gpus_of(facts.driver) if one.health.index == index
    )


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:.0f} s"


@check(
    "mps",
    Topic.GPU,
    source="NVIDIA Multi-Process Service; nvidia-cuda-mps-control(1)",
    remedies=(_QUIT_MPS, _UNSET, _REMOVE_PIPE),
)
def mps(facts: Facts) -> Iterator[Finding]:
    """MPS, if it is used, runs and serves this user. Warns if only its pipe or its variables are there, or if its
    server is another user's: then this user's processes wait until the others have ended."""
    nothing = without_gpus(facts)
    found = facts.mps
    if nothing is not None:
        yield nothing
    elif found.daemons:
        yield _of_daemons(found.daemons, facts.limits.uid)
    elif found.has_pipe and found.sees_all_processes:
        yield warn(
            f"{found.pipe_folder} has the pipe of a daemon that does not run: CUDA may fail to connect (error 805)",
            _REMOVE_PIPE.format(folder=found.pipe_folder),
            f"Or start it: `{_START_MPS}`",
        )
    elif found.has_pipe:
        yield passed(f"its pipe is in {found.pipe_folder}, its daemon outside of this container")
    else:
        variables = [name for name in _MPS_VARIABLES if name in facts.variables]
        if variables:
            names = " ".join(variables)
            yield warn(f"{names} without a daemon: no effect", _UNSET.format(variables=names), f"Or `{_START_MPS}`")
        else:
            yield passed("not running")


def _of_daemons(daemons: Sequence[MpsDaemon], uid: int) -> Finding:
    servers = [daemon for daemon in daemons if daemon.name.startswith(_SERVER)]
    others = [daemon.uid for daemon in servers if daemon.uid not in (None, uid)]
    if others and uid != 0:
        users = ", ".join(user_name(other) for other in others if other is not None)
        return warn(f"the MPS server is {users}'s: your processes wait until those of {users} have ended", _QUIT_MPS)
    return passed("running: workers may share GPUs; a fatal fault of one ends all on that GPU")


@check(
    "numa",
    Topic.GPU,
    source="/sys/devices/system/node; nvml.h, nvmlDeviceGetCpuAffinity, nvmlDeviceGetTopologyCommonAncestor",
    remedies=(_TASKSET, _NUMACTL, _TOPOLOGY, "gpuexec doctor --check driver --check gpus"),
)
def numa(facts: Facts) -> Iterator[Finding]:
    """This process may use CPUs and memory close to each GPU. Warns if none of those CPUs, or not that memory, is
    allowed. Says how the GPUs are linked."""
    nothing = without_gpus(facts)
    if nothing is not None:
        yield nothing
        return
    cpus = facts.cpus
    yield passed(_links(facts.driver.node))
    if len(cpus.numa_nodes) <= 1:
        return
    for one in gpus_of(facts.driver):
        gpu, only = one.gpu, (one.health.index,)
        near = gpu.cpu_affinity or cpus.numa_nodes.get(-1 if gpu.numa_node is None else gpu.numa_node, ())
        if gpu.numa_node is None and not near:
            yield _with_gpus(unknown("its NUMA node is not known", _TOPOLOGY), only)
        elif near and not set(near) & set(cpus.host.cpus):
            finding = warn("none of the CPUs close to it may be used: copies go over the other socket", "")
            command = _TASKSET.format(cpus=_list(near))
            yield _with_gpus(warn(finding.found, command), only)
        elif cpus.memory_nodes is not None and gpu.numa_node is not None and gpu.numa_node not in cpus.memory_nodes:
            command = _NUMACTL.format(nodes=gpu.numa_node)
            yield _with_gpus(warn(f"memory of its NUMA node {gpu.numa_node} may not be used", command), only)


def _links(node: Node) -> str:
    if len(node.gpus) < 2:
        return "one GPU"
    kinds = {link.kind for link in node.links}
    if not kinds:
        return f"{len(node.gpus)} GPUs; their links are not known"
    words = ", ".join(kind.name.lower().replace("_", " ") for kind in sorted(kinds))
    peers = sum(link.kind is LinkKind.NVLINK for link in node.links)
    return f"links between GPUs: {words}" + (f"; {peers} of {len(node.links)} pairs have NVLink" if peers else "")


def _list(numbers: Sequence[int]) -> str:
    """Return numbers as taskset takes them: "0-3,8"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@check(
    "pid-namespace",
    Topic.CONTAINER,
    source="NVIDIA/nvidia-docker#1483, wookayin/gpustat#117",
    remedies=(_HOST_PIDS,),
)
def pid_namespace(facts: Facts) -> Iterator[Finding]:
    """The pids that the driver reports are those that this process sees. Warns if not, as in most containers: then GPU
    memory cannot be told by process, nor who else uses a GPU."""
    if facts.container.in_initial_pid_namespace:
        yield passed("the machine's own")
    elif gpus_of(facts.driver):
        yield warn(
            "the driver's pids are not ours: GPU memory by process and who holds a GPU are not known",
            _HOST_PIDS,
            "In a pod: `hostPID: true`",
        )
    else:
        yield passed(
            f"one of its own{f' ({facts.container.kind})' if facts.container.kind else ''}; no GPU to ask about"
        )
