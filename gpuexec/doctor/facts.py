"""What the checks judge: frozen values, as the readers found them. ``None`` is unknown; a ``reason`` beside it says
why.

Sizes are in bytes. No field holds a user's environment beyond the variables named here, nor command lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from gpuexec.hardware.health import HealthListing
from gpuexec.hardware.host_memory import HostMemory
from gpuexec.hardware.model import Host, Lease, Node
from gpuexec.records import Record


class DriverFacts(Record):
    """The NVIDIA driver as this process sees it.

    ``node``: host, GPUs and links. ``health``: how the GPUs are. ``kernel_module``: version of the loaded kernel
    module. ``pci_gpus``: bus ids of NVIDIA's display controllers on the PCI bus, whether the driver knows them or not;
    ``None`` if the bus cannot be listed. ``card_lanes``: PCIe lanes of the card itself, by bus id. ``has_dxg``: this is
    WSL. ``leases``: what other runs hold, by UUID of the device. ``names``: of the users who own processes on GPUs, by
    pid.
    """

    node: Node
    health: HealthListing
    kernel_module: str | None = None
    pci_gpus: tuple[str, ...] | None = None
    card_lanes: Mapping[str, int] = field(default_factory=dict, hash=False)
    has_dxg: bool = False
    leases: Mapping[str, tuple[Lease, ...]] = field(default_factory=dict, hash=False)
    names: Mapping[int, str] = field(default_factory=dict, hash=False)


class TorchDevice(Record):
    """A GPU as torch sees it."""

    name: str
    capability: tuple[int, int]


class TorchFacts(Record):
    """What torch says in a process of its own. ``version`` is ``None`` where it is not installed, or not known.

    ``cuda``: the version of CUDA that it was built for, ``None`` for a build without. ``architectures``: those that it
    has kernels for, such as ``sm_90``. ``problem``: why it sees no GPU, in its own words. ``reason``: why it could not
    be asked.
    """

    version: str | None = None
    cuda: str | None = None
    is_available: bool = False
    devices: tuple[TorchDevice, ...] = ()
    architectures: tuple[str, ...] = ()
    problem: str = ""
    reason: str = ""


class XidEntry(Record):
    """An XID in the kernel log. ``pci``: the GPU's bus id as the log has it. ``seconds_ago``: ``None`` if not known."""

    number: int
    pci: str
    seconds_ago: float | None = None
    text: str = ""


class KernelLog(Record):
    """The XIDs since the machine was started. ``source``: the file they are from; ``reason``: why there is none."""

    xids: tuple[XidEntry, ...] = ()
    source: str | None = None
    reason: str = ""


class MpsDaemon(Record):
    """A process of MPS, and whose it is."""

    pid: int
    name: str
    uid: int | None


class MpsFacts(Record):
    """MPS, the service that lets several processes compute on a GPU at once.

    ``pipe_folder``: where CUDA looks for it; ``has_pipe``: its pipe is there. ``sees_all_processes``: this process is
    in the machine's own pid namespace, so a daemon that is not listed does not run.
    """

    pipe_folder: str
    has_pipe: bool = False
    daemons: tuple[MpsDaemon, ...] = ()
    sees_all_processes: bool = True


class CpuFacts(Record):
    """CPUs, and what limits them.

    ``host``: what this process may use. ``throttled``: periods in which the cgroup's quota was used up, and all
    periods. ``numa_nodes``: CPUs by NUMA node. ``memory_nodes``: NUMA nodes that this process may take memory from.
    ``governors``: (governor, driver, preference) of the CPUs, each once. ``clock_source``: what the kernel reads the
    time from.
    """

    host: Host
    throttled: tuple[int, int] | None = None
    numa_nodes: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    memory_nodes: tuple[int, ...] | None = None
    governors: tuple[tuple[str, str, str], ...] = ()
    clock_source: str | None = None


class Space(Record):
    """Room in a file system."""

    total: int
    free: int


class MemoryFacts(Record):
    """Host memory. ``closest``: the limit that is closest to being reached. ``oom_kills``: of this cgroup's processes.

    ``overcommit``: ``vm.overcommit_memory``. ``address_space``: ``ulimit -v`` in bytes, ``None`` if there is no limit.
    ``shm``: /dev/shm, ``None`` if there is none that can be written.
    """

    closest: HostMemory
    oom_kills: int | None = None
    swap_total: int | None = None
    swap_free: int | None = None
    overcommit: int | None = None
    commit_limit: int | None = None
    committed: int | None = None
    address_space: int | None = None
    shm: Space | None = None


class Limit(Record):
    """A limit of the kernel. ``soft``, ``hard``: ``None`` is no limit. ``used``: ``None`` if not known."""

    soft: int | None
    hard: int | None = None
    used: int | None = None


class LimitFacts(Record):
    """Limits on this process and user. ``processes`` counts threads; ``pids``: those of the tightest cgroup."""

    open_files: Limit
    processes: Limit
    pids: Limit
    uid: int


class OfferFacts(Record):
    """What Python, kernel and sandbox offer: ``None`` if it works, else what was tried and what came of it.

    ``free_threaded``: whether this Python is built to run without its global lock.
    """

    memfd: str | None
    pidfd: str | None
    kernel: str = ""
    python: str = ""
    free_threaded: bool = False


class ContainerFacts(Record):
    """``kind``: "Docker" and so on, ``None`` outside a container, as far as can be told."""

    kind: str | None
    in_initial_pid_namespace: bool


class Folder(Record):
    """A folder that a run writes to, or would make. ``purpose``: "runs", "checkpoint" or "spill".

    ``exists``: it is there; otherwise the figures are those of the folder that it would be made in. ``file_system``:
    its type. ``problem``: why nothing can be written there.
    """

    purpose: str
    path: str
    exists: bool = False
    file_system: str | None = None
    space: Space | None = None
    problem: str | None = None


class PackageFacts(Record):
    """Installed packages. ``versions``: of those that matter here, by name. ``conflicts``: which of them need another
    version of a package, or one that is missing; (package, requirement, what is there)."""

    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    conflicts: tuple[tuple[str, str, str], ...] = ()


class StageStart(Record):
    """How the workers of a group of stages would start.

    ``workers``: how many at most. ``unsafe``: why a fork would not be safe, in words; ``module``: what is to blame.
    ``failed``: its modules cannot be imported in a fresh process. ``modules``: those that its workers import.
    """

    stage: str
    workers: int
    modules: tuple[str, ...] = ()
    unsafe: str | None = None
    module: str | None = None
    failed: str | None = None


class TargetFacts(Record):
    """The pipeline that was named.

    ``load_problem``: why there is none. ``plan_problem``: why it cannot be planned here; ``is_busy``: because others
    hold the GPUs now. ``unmet``: what its stages require and is not installed. ``not_sendable``: stages that cannot be
    pickled, and why. ``workers``: the most that run at once. ``summary``: the workers of each stage, in a line.
    ``spawned``: why workers are not forked, whatever they import. ``starts_unknown``: why it is not known whether they
    can be.
    """

    name: str
    arguments: str = ""
    load_problem: str | None = None
    plan_problem: str | None = None
    is_busy: bool = False
    notes: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    not_sendable: tuple[tuple[str, str], ...] = ()
    workers: int = 0
    summary: str = ""
    starts: tuple[StageStart, ...] = ()
    spawned: str | None = None
    starts_unknown: str | None = None


class Facts(Record):
    """Everything that is judged.

    ``variables``: environment variables that matter here, and no others. ``left_out``: names of those that workers do
    not get, since a launcher set them for this process. ``uptime_s``: how long the machine has been up.
    """

    driver: DriverFacts
    torch: TorchFacts
    kernel_log: KernelLog
    mps: MpsFacts
    cpus: CpuFacts
    memory: MemoryFacts
    limits: LimitFacts
    offers: OfferFacts
    container: ContainerFacts
    packages: PackageFacts
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    left_out: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()
    uptime_s: float | None = None
    target: TargetFacts | None = None
