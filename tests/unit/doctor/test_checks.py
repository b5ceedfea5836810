"""Every check, on facts of a fit machine with one thing changed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import pytest

from gpuexec.doctor.catalogue import CHECKS
from gpuexec.doctor.checks.driver import runs_on
from gpuexec.doctor.facts import (
    ContainerFacts,
    Folder,
    KernelLog,
    Limit,
    MpsDaemon,
    Space,
    StageStart,
    TorchDevice,
    TorchFacts,
    XidEntry,
)
from gpuexec.doctor.model import Outcome, examine
from gpuexec.hardware.health import GpuHealth, HealthListing, RecoveryAction
from gpuexec.hardware.host_memory import HostMemory
from gpuexec.hardware.model import ComputeMode, Gpu, GpuProcess, Holder, Lease, Link, LinkKind, MigSlice, Node
from gpuexec.hardware.nvml_errors import GPU_IS_LOST, NOT_SUPPORTED
from tests.unit.doctor.sample_facts import (
    CPU_FACTS,
    CPUS,
    DRIVER,
    FOLDERS,
    GIB,
    GPUS,
    HOST,
    LIMITS,
    MEMORY,
    PACKAGES,
    TARGET,
    TORCH,
    driver,
    facts,
    gpu,
    health,
    of_gpu,
    part,
    uuid,
    without_driver,
)

PASS, WARN, FAIL, UNKNOWN = Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.COULD_NOT_RUN
BY_NAME = {check.name: check for check in CHECKS}
IN_DOCKER = {"container": ContainerFacts("Docker", in_initial_pid_namespace=False)}
IN_POD = {"container": ContainerFacts("Kubernetes", in_initial_pid_namespace=False)}
CARD = ("0000:10:00.0",)
HANG = "the NVML call nvmlDeviceGetName for GPU 1 does not return"


class Case(NamedTuple):
    """What is changed, what becomes of the check, what it says, and the command that it advises."""

    check: str
    changes: dict[str, Any]
    outcome: Outcome
    said: str
    remedy: str = ""


def xid(number: int, ago: float | None = 60.0, pci: str = "0000:11:00") -> XidEntry:
    return XidEntry(number, pci, ago, "pid=1")


def log(*xids: XidEntry) -> dict[str, Any]:
    return {"kernel_log": KernelLog(xids, "/dev/kmsg")}


def unreadable(**fields: str) -> dict[str, Any]:
    """A second GPU of which these readings are unknown, for these reasons."""
    return of_gpu(**dict.fromkeys(fields), unknown=fields)


def held_by(*processes: GpuProcess, **gpu_changes: Any) -> dict[str, Any]:
    used = sum(process.used_bytes or 0 for process in processes)
    return {"processes": processes, "memory_free_bytes": 80 * GIB - used, **gpu_changes}


def numa(gpu_changes: dict[str, Any], **cpu_changes: Any) -> dict[str, Any]:
    """Two sockets; this process may use the first one, unless something else is said."""
    nodes = {0: CPUS, 1: tuple(range(16, 32))}
    cpus = dataclasses.replace(CPU_FACTS, **{"numa_nodes": nodes, "memory_nodes": (0, 1), **cpu_changes})
    return {**of_gpu(gpu_changes), "cpus": cpus}


def governors(*each: tuple[str, str, str]) -> dict[str, Any]:
    return part("cpus", governors=each)


def folder(purpose: str, **changes: Any) -> dict[str, Any]:
    return {"folders": tuple(dataclasses.replace(f, **changes) if f.purpose == purpose else f for f in FOLDERS)}


def limits(**changes: Any) -> dict[str, Any]:
    return {"limits": dataclasses.replace(LIMITS, **changes)}


def target(**changes: Any) -> dict[str, Any]:
    return {"target": dataclasses.replace(TARGET, **changes)}


CASES = [
    # ---- driver ------------------------------------------------------------------------------------------------
    Case("driver", {}, PASS, "driver 580.95.05, CUDA 13.0"),
    Case("driver", without_driver(), PASS, "no NVIDIA GPU on the PCI bus"),
    Case("driver", without_driver(pci_gpus=None), PASS, "no driver"),
    Case("driver", without_driver(error=9), PASS, "no NVIDIA GPU on the PCI bus"),
    Case("driver", without_driver(pci_gpus=CARD), FAIL, "GPU on the PCI bus (0000:10", "sudo ubuntu-drivers install"),
    Case("driver", without_driver(has_dxg=True), FAIL, "GPU of WSL", "sudo ubuntu-drivers install"),
    Case(
        "driver",
        {**without_driver(pci_gpus=CARD), **IN_DOCKER},
        FAIL,
        "was not given it",
        "docker run --gpus all …",
    ),
    Case("driver", without_driver(error=9, pci_gpus=CARD), FAIL, "module is not loaded", "sudo modprobe nvidia"),
    Case(
        "driver",
        without_driver("mismatch", 18, kernel_module="570.1", pci_gpus=CARD),
        FAIL,
        "the kernel module that is loaded is 570.1",
        "sudo reboot",
    ),
    Case("driver", driver(kernel_module="570.1"), FAIL, "the loaded kernel module of 570.1", "sudo reboot"),
    Case("driver", {**without_driver("?", 999), **IN_DOCKER}, FAIL, "daemon-reload", "docker restart CONTAINER"),
    Case("driver", {**without_driver("?", 17), **IN_POD}, FAIL, "lost its GPUs", "kubectl delete pod POD"),
    Case("driver", without_driver("NVML error 999, failed inside", 999), FAIL, "failed inside", "sudo reboot"),
    Case("driver", without_driver("NVML error 4, no permission", 4), FAIL, "permission", "ls -l /dev/nvidia*"),
    Case("driver", without_driver("NVML error 8, no power", 8), FAIL, "power", "nvidia-smi"),
    Case("driver", driver(node=Node(HOST, hang=HANG), health=HealthListing(hang=HANG)), FAIL, HANG, "sudo reboot"),
    Case(
        "driver",
        {**without_driver(), **part("packages", versions={"gpuexec": "1"})},
        UNKNOWN,
        "nvidia-ml-py is not installed",
        "python -m pip install nvidia-ml-py",
    ),
    # ---- gpus --------------------------------------------------------------------------------------------------
    Case("gpus", {}, PASS, "2 of 2 answer: NVIDIA H100"),
    Case("gpus", without_driver(), PASS, "no GPU here"),
    Case("gpus", without_driver("?", 999), UNKNOWN, "no GPU can be read", "gpuexec doctor --check driver --check gpus"),
    Case("gpus", of_gpu({"lost": True}), FAIL, "GPU 1: lost", "sudo nvidia-smi --gpu-reset -i 1"),
    Case(
        "gpus",
        driver(
            node=Node(HOST, (GPUS[0], Gpu(1, None, unknown={"handle": "no permission"}))),
            health=HealthListing((health(0), GpuHealth(1, unknown={"handle": "no permission"}))),
        ),
        FAIL,
        "GPU 1: no permission",
        "sudo dmesg | grep -i -e nvrm -e nvidia",
    ),
    Case(
        "gpus",
        driver(pci_gpus=(*DRIVER.pci_gpus, "0000:30:00.0")),
        FAIL,
        "not listed by the driver: 0000:30:00.0",
        "sudo dmesg | grep -i -e nvrm -e nvidia",
    ),
    Case("gpus", {**driver(pci_gpus=(*DRIVER.pci_gpus, "0000:30:00.0")), **IN_DOCKER}, PASS, "2 of 2 answer"),
    # ---- what CUDA sees ----------------------------------------------------------------------------------------
    Case("visible-devices", {}, PASS, "all are visible"),
    Case("visible-devices", {"variables": {"CUDA_VISIBLE_DEVICES": uuid(1)}}, PASS, "1 chosen"),
    Case(
        "visible-devices",
        {"variables": {"CUDA_VISIBLE_DEVICES": "0,7", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}},
        WARN,
        "ends at '7'",
        "gpuexec gpus",
    ),
    Case(
        "visible-devices",
        {"variables": {"CUDA_VISIBLE_DEVICES": ""}},
        WARN,
        "hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    Case("visible-devices", without_driver("?", 999), UNKNOWN, "no GPU can be read", "gpuexec doctor --check driver"),
    Case("torch-cuda", {}, PASS, "torch 2.9.0 for CUDA 13.0: 2 GPU(s)"),
    Case("torch-cuda", {"torch": TorchFacts()}, PASS, "not installed"),
    Case("torch-cuda", without_driver(), PASS, "no GPU for it"),
    Case("torch-cuda", without_driver("?", 999), UNKNOWN, "no GPU can be read", "gpuexec doctor --check driver"),
    Case("torch-cuda", part("torch", cuda=None), WARN, "without CUDA", "python -m pip install --force-reinstall torch"),
    Case(
        "torch-cuda",
        {"torch": TorchFacts(reason="no answer within 60 s")},
        UNKNOWN,
        "within 60 s",
        "python -c 'import torch",
    ),
    Case(
        "torch-cuda", {"torch": TorchFacts(problem="libcudnn is missing")}, FAIL, "libcudnn", "python -c 'import torch"
    ),
    Case(
        "torch-cuda",
        {**part("torch", is_available=False, cuda="14.0", devices=())},
        FAIL,
        "needs a newer driver: this one offers CUDA 13.0",
        "sudo ubuntu-drivers install",
    ),
    Case(
        "torch-cuda",
        part("torch", is_available=False, devices=(), problem="unknown error"),
        FAIL,
        "sees no GPU: unknown error",
        "python -c 'import torch",
    ),
    Case(
        "torch-cuda",
        {"torch": dataclasses.replace(TORCH, is_available=False), "variables": {"CUDA_VISIBLE_DEVICES": ""}},
        PASS,
        "no GPU is visible",
    ),
    Case(
        "torch-cuda",
        part("torch", devices=(TorchDevice("RTX 5090", (12, 0)),) * 2),
        FAIL,
        "no kernels for RTX 5090 (sm_120): it has sm_80, sm_90",
        "python -m pip install --force-reinstall torch",
    ),
    Case("torch-cuda", part("torch", devices=TORCH.devices[:1]), WARN, "sees 1 GPU(s), 2 should", "gpuexec gpus"),
    # ---- modes -------------------------------------------------------------------------------------------------
    Case("compute-mode", {}, PASS, "default"),
    Case("compute-mode", without_driver(), PASS, "no GPU here"),
    Case(
        "compute-mode",
        of_gpu({"compute_mode": ComputeMode.EXCLUSIVE_PROCESS}),
        WARN,
        "GPU 1: exclusive",
        "sudo nvidia-smi -i 1 -c DEFAULT",
    ),
    Case(
        "compute-mode",
        {
            **of_gpu({"compute_mode": ComputeMode.EXCLUSIVE_PROCESS}),
            **part("mps", daemons=(MpsDaemon(9, "nvidia-cuda-mps-server", 1000),)),
        },
        PASS,
        "MPS shares it",
    ),
    Case(
        "compute-mode",
        of_gpu({"compute_mode": ComputeMode.PROHIBITED}),
        FAIL,
        "PROHIBITED",
        "sudo nvidia-smi -i 1 -c DEFAULT",
    ),
    Case(
        "compute-mode",
        of_gpu({"compute_mode": None, "unknown": {"compute_mode": "a fault"}}),
        UNKNOWN,
        "GPU 1: a fault",
        "nvidia-smi -q -i 1",
    ),
    Case("persistence-mode", {}, PASS, "on"),
    Case("persistence-mode", of_gpu(persistence_mode=False), WARN, "GPU 1: off", "sudo nvidia-smi -i 1 -pm 1"),
    Case(
        "persistence-mode",
        of_gpu({"processes": (GpuProcess(1, GIB, "graphics", "Xorg"),)}, persistence_mode=False),
        PASS,
        "a desktop keeps it",
    ),
    Case("persistence-mode", unreadable(persistence_mode=NOT_SUPPORTED), PASS, "not offered"),
    Case("persistence-mode", unreadable(persistence_mode=GPU_IS_LOST), UNKNOWN, "is lost", "nvidia-smi -q -i 1"),
    Case("mig", {}, PASS, "off"),
    Case("mig", of_gpu(mig_pending=True), WARN, "to be on after a reset", "sudo nvidia-smi --gpu-reset -i 1"),
    Case("mig", of_gpu(mig_enabled=True, mig_pending=True), FAIL, "no slice", "nvidia-smi mig -lgip -i 1"),
    Case(
        "mig",
        of_gpu(
            {"mig_enabled": True, "mig_slices": (MigSlice(0, "MIG-1", "1g.10gb", GIB, 0, GIB, 1, 0),)},
            mig_enabled=True,
            mig_pending=True,
        ),
        PASS,
        "1 slices (1g.10gb)",
    ),
    Case("mig", unreadable(mig_enabled="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("mps", {}, PASS, "not running"),
    Case("mps", without_driver(), PASS, "no GPU here"),
    Case("mps", part("mps", daemons=(MpsDaemon(9, "nvidia-cuda-mps-server", 1000),)), PASS, "running"),
    Case(
        "mps",
        part(
            "mps", daemons=(MpsDaemon(8, "nvidia-cuda-mps-control", 0), MpsDaemon(9, "nvidia-cuda-mps-server", 54321))
        ),
        WARN,
        "the MPS server is uid 54321's",
        "echo quit | sudo nvidia-cuda-mps-control",
    ),
    Case("mps", part("mps", has_pipe=True), WARN, "error 805", "rm -r /tmp/nvidia-mps"),
    Case("mps", part("mps", has_pipe=True, sees_all_processes=False), PASS, "outside of this container"),
    Case(
        "mps",
        {"variables": {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30"}},
        WARN,
        "no effect",
        "unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    ),
    # ---- memory and faults -------------------------------------------------------------------------------------
    Case("ecc", {}, PASS, "no uncorrected errors"),
    Case("ecc", of_gpu(ecc_uncorrected_ever=4), PASS, "4 uncorrected ever"),
    Case("ecc", of_gpu(ecc_uncorrected=2), FAIL, "GPU 1: 2 uncorrected", "sudo nvidia-smi --gpu-reset -i 1"),
    Case("ecc", of_gpu(ecc_corrected=50_000_001), WARN, "50,000,001 corrected", "nvidia-smi -q -d ECC -i 1"),
    Case("ecc", of_gpu(ecc_corrected=50_000_000), PASS, "no uncorrected errors"),
    Case("ecc", of_gpu(ecc_pending=False), WARN, "to be off after a reset", "sudo nvidia-smi --gpu-reset -i 1"),
    Case("ecc", of_gpu(ecc_enabled=False, ecc_pending=False, ecc_uncorrected=None), PASS, "off: memory errors go"),
    Case("ecc", unreadable(ecc_enabled=NOT_SUPPORTED), PASS, "not offered by this GPU"),
    Case("ecc", unreadable(ecc_uncorrected="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("row-remap", {}, PASS, "0 rows remapped"),
    Case("row-remap", of_gpu(remapped_correctable=2, remapped_uncorrectable=1), PASS, "3 rows remapped"),
    Case("row-remap", of_gpu(remap_failed=1), FAIL, "could not be remapped", "nvidia-smi -q -d ROW_REMAPPER -i 1"),
    Case("row-remap", of_gpu(remap_pending=1), WARN, "at the next reset", "sudo nvidia-smi --gpu-reset -i 1"),
    Case("row-remap", unreadable(remap_failed=NOT_SUPPORTED), PASS, "not offered"),
    Case("row-remap", unreadable(remap_failed="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("row-remap", of_gpu(remap_failed=None, retirement_pending=1), WARN, "to be retired", "sudo reboot"),
    Case(
        "row-remap",
        of_gpu(remap_failed=None, retirement_pending=0, retired_pages_double=3),
        WARN,
        "3 pages",
        "nvidia-smi -q -d PAGE_RETIREMENT -i 1",
    ),
    Case("row-remap", of_gpu(remap_failed=None, retirement_pending=0), PASS, "0 pages retired"),
    Case("recovery-action", {}, PASS, "none"),
    *(
        Case("recovery-action", of_gpu(recovery_action=action), FAIL, "the driver asks for", remedy)
        for action, remedy in {
            RecoveryAction.GPU_RESET: "sudo nvidia-smi --gpu-reset -i 1",
            RecoveryAction.NODE_REBOOT: "sudo reboot",
            RecoveryAction.DRAIN_P2P: "sudo nvidia-smi --gpu-reset -i 1",
            RecoveryAction.DRAIN_AND_RESET: "sudo nvidia-smi --gpu-reset -i 1",
            RecoveryAction.RECOVER_IMEX_DOMAIN: "sudo systemctl restart nvidia-imex",
            RecoveryAction.BUS_RESET: "sudo reboot",
            RecoveryAction.SYSTEM_REBOOT: "sudo reboot",
        }.items()
    ),
    Case("recovery-action", of_gpu(recovery_action=12), FAIL, "action 12, which is newer", "sudo reboot"),
    Case("recovery-action", unreadable(recovery_action=NOT_SUPPORTED), PASS, "not offered"),
    Case("recovery-action", unreadable(recovery_action="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("xids", {}, PASS, "none in /dev/kmsg"),
    Case(
        "xids",
        {**log(xid(79)), **unreadable(recovery_action=NOT_SUPPORTED)},
        FAIL,
        "GPU 1: XID 79 (GPU has fallen off the bus), once, last 1 minute ago",
        "sudo reboot",
    ),
    Case(
        "xids",
        {**log(xid(95), xid(95, 7200)), **of_gpu(recovery_action=1)},
        FAIL,
        "2 times",
        "sudo nvidia-smi --gpu-reset -i 1",
    ),
    Case("xids", log(xid(95)), WARN, "it has been dealt with since", "sudo dmesg | grep -i xid"),
    Case("xids", log(xid(79, pci="0000:77:00")), FAIL, "XID 79 of the GPU at 0000:77:00", "sudo reboot"),
    Case("xids", log(xid(95, pci="0000:77:00")), FAIL, "XID 95 of the GPU at", "sudo dmesg | grep -i xid"),
    Case("xids", {**log(xid(74)), **of_gpu(recovery_action=1)}, FAIL, "NVLink", "nvidia-smi nvlink -s"),
    Case("xids", {**log(xid(78)), **of_gpu(recovery_action=1)}, FAIL, "XID 78", "sudo ubuntu-drivers install"),
    Case("xids", {**log(xid(170)), **of_gpu(recovery_action=1)}, FAIL, "not in this", "sudo nvidia-bug-report.sh"),
    Case("xids", log(xid(31)), WARN, "memory page fault", "sudo dmesg | grep -i xid"),
    Case("xids", log(xid(31, None)), WARN, "memory page fault", "sudo dmesg | grep -i xid"),
    Case("xids", log(xid(31, 100_000)), PASS, "last 1 day ago"),
    Case("xids", log(xid(43), xid(45), xid(63), xid(154)), PASS, "XID 45"),
    Case(
        "xids",
        {"kernel_log": KernelLog(reason="/dev/kmsg: Operation not permitted")},
        UNKNOWN,
        "not permitted",
        "sudo dmesg | grep -i xid",
    ),
    Case("xids", {**without_driver(), "kernel_log": KernelLog(reason="?")}, PASS, "no GPU here"),
    # ---- clocks, link, place, tenants --------------------------------------------------------------------------
    Case("throttling", {}, PASS, "never slowed down so far"),
    Case("throttling", of_gpu(clock_reasons=("power cap",)), PASS, "not now"),
    Case(
        "throttling",
        of_gpu(clock_reasons=("HW thermal slowdown",)),
        WARN,
        "GPU 1: slowed down now: HW thermal",
        "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i 1",
    ),
    Case(
        "throttling",
        of_gpu(throttled_ns={"SW thermal slowdown": 1_500 * 10**9}),
        WARN,
        "1,500 s so far, 2% of the time",
        "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i 1",
    ),
    Case("throttling", of_gpu(throttled_ns={"SW thermal slowdown": 900 * 10**9}), PASS, "900.0 s so far"),
    Case("throttling", unreadable(clock_reasons="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("pcie-link", {}, PASS, "16 lanes, generation 5 at most"),
    Case(
        "pcie-link",
        of_gpu(pcie_width=4),
        WARN,
        "4 of the card's 16 PCIe lanes",
        "nvidia-smi --query-gpu=pcie.link.width.current,pcie.link.width.max --format=csv -i 1",
    ),
    Case(
        "pcie-link",
        of_gpu(pcie_width=8, pcie_max_width=8),
        WARN,
        "8 of the card's 16",
        "nvidia-smi --query-gpu=pcie.link.width.current",
    ),
    Case("pcie-link", unreadable(pcie_width="a fault"), UNKNOWN, "a fault", "nvidia-smi -q -i 1"),
    Case("numa", {}, PASS, "nvlink; 1 of 1 pairs have NVLink"),
    Case("numa", numa({}), PASS, "nvlink"),
    Case(
        "numa",
        numa({"cpu_affinity": tuple(range(16, 32))}),
        WARN,
        "GPU 1: none of the CPUs",
        "taskset -c 16-31 gpuexec",
    ),
    Case("numa", numa({"cpu_affinity": None, "numa_node": 1}), WARN, "none of the CPUs", "taskset -c 16-31 gpuexec"),
    Case("numa", numa({"numa_node": 1}, memory_nodes=(0,)), WARN, "NUMA node 1 may not", "numactl --membind=1 gpuexec"),
    Case("numa", numa({"numa_node": None, "cpu_affinity": None}), UNKNOWN, "not known", "nvidia-smi topo -m"),
    Case("numa", without_driver("?", 999), UNKNOWN, "no GPU can be read", "gpuexec doctor --check driver"),
    Case("tenants", {}, PASS, "no other processes compute"),
    Case(
        "tenants",
        {
            **of_gpu(held_by(GpuProcess(42, 30 * GIB, "compute", "python"))),
            "driver": dataclasses.replace(
                of_gpu(held_by(GpuProcess(42, 30 * GIB, "compute", "python")))["driver"], names={42: "ada"}
            ),
        },
        WARN,
        "GPU 1: python (pid 42, ada) holds 30.0 GiB",
        "ps -o pid,user,lstart,cmd -p 42",
    ),
    Case(
        "tenants",
        {**of_gpu(held_by(GpuProcess(42, None, "compute"))), **IN_DOCKER},
        WARN,
        "a process (pid 42 of another pid namespace)",
        "ps -o pid,user,lstart,cmd -p 42",
    ),
    Case("tenants", of_gpu(held_by(GpuProcess(7, GIB, "graphics", "Xorg"))), PASS, "no other processes"),
    Case("tenants", of_gpu(held_by(GpuProcess(7, GIB, "compute", "me", is_this_process=True))), PASS, "no other"),
    Case("tenants", driver(leases={uuid(1): (Lease(Holder(77), 500, 0),)}), PASS, "no other processes"),
    Case(
        "tenants",
        {
            "driver": dataclasses.replace(
                of_gpu(held_by(GpuProcess(77, 30 * GIB, "compute", "python")))["driver"],
                leases={uuid(1): (Lease(Holder(77), 500, 0),)},
            )
        },
        WARN,
        "another run of yours",
        "gpuexec runs",
    ),
    Case(
        "tenants",
        of_gpu({"memory_free_bytes": 70 * GIB}),
        WARN,
        "10.0 GiB are held by processes that are not listed",
        "sudo fuser -v /dev/nvidia*",
    ),
    Case(
        "tenants",
        of_gpu({"processes": None, "unknown": {"processes": "a fault"}}),
        UNKNOWN,
        "a fault",
        "nvidia-smi -q -i 1",
    ),
    # ---- container and limits ----------------------------------------------------------------------------------
    Case("pid-namespace", {}, PASS, "the machine's own"),
    Case("pid-namespace", IN_DOCKER, WARN, "pids are not ours", "docker run --pid=host …"),
    Case("pid-namespace", {**IN_DOCKER, **without_driver()}, PASS, "no GPU to ask about"),
    Case("cpu-limit", {}, PASS, "16 usable CPUs"),
    Case(
        "cpu-limit",
        part("cpus", host=dataclasses.replace(HOST, cpu_quota=1.0)),
        WARN,
        "1 usable CPUs (16 in the affinity mask, quota 1) for 2 GPUs",
        "docker run --cpus=4 …",
    ),
    Case("cpu-limit", part("cpus", host=dataclasses.replace(HOST, cpus=(0,))), WARN, "for 2 GPUs", "nproc; cat"),
    Case("cpu-limit", part("cpus", throttled=(30, 100)), WARN, "used up in 30% of the periods", "nproc; cat"),
    Case("cpu-limit", part("cpus", throttled=(5, 100)), PASS, "16 usable CPUs"),
    Case("memory-limit", {}, PASS, "4.0 GiB of 64.0 GiB of the machine in use (6%)"),
    Case(
        "memory-limit",
        part("memory", closest=HostMemory(10 * GIB, int(9.5 * GIB), "cgroup /job")),
        FAIL,
        "of cgroup /job in use (95%)",
        "ps -eo rss,pid,user,comm --sort=-rss | head",
    ),
    Case("memory-limit", part("memory", oom_kills=3), WARN, "has killed 3", "sudo dmesg | grep -i -e oom"),
    Case(
        "memory-limit",
        part("memory", closest=HostMemory(None, None, "none", "no /proc")),
        UNKNOWN,
        "no /proc",
        "ps -eo",
    ),
    Case("shm", {}, PASS, "32.0 GiB of 32.0 GiB free"),
    Case("shm", part("memory", shm=None), WARN, "no /dev/shm", "sudo mount -o remount"),
    Case(
        "shm",
        {**part("memory", shm=Space(64 * 2**20, 64 * 2**20)), **IN_DOCKER},
        WARN,
        "too little",
        "docker run --shm-size=8g …",
    ),
    Case("shm", part("memory", shm=Space(32 * GIB, GIB)), FAIL, "would hang", "ls -lhS /dev/shm | head"),
    Case("open-files", {}, PASS, "65,536 descriptors; 8 workers need 96"),
    Case("open-files", limits(open_files=Limit(None)), PASS, "no limit"),
    Case("open-files", limits(open_files=Limit(1024, 1_048_576)), WARN, "1,024 descriptors", "ulimit -n 1048576"),
    Case("open-files", limits(open_files=Limit(1024, None)), WARN, "1,024", "ulimit -n 4096"),
    Case("open-files", limits(open_files=Limit(1024, 1024)), PASS, "1,024 descriptors"),
    Case("open-files", limits(open_files=Limit(100, 100)), FAIL, "100 descriptors", "ulimit -n 100"),
    Case(
        "open-files",
        {**target(workers=0), **limits(open_files=Limit(128, None))},
        FAIL,
        "20 workers need 144",
        "ulimit -n 4096",
    ),
    Case("processes", {}, PASS, "99,700 are left for 8 workers"),
    Case("processes", limits(processes=Limit(310, 310, 300)), FAIL, "10 are left", "ulimit -u 470"),
    Case("processes", limits(processes=Limit(360, 360, 300)), WARN, "60 are left", "ulimit -u 520"),
    Case(
        "processes",
        {**limits(pids=Limit(100, 100, 95)), **IN_DOCKER},
        FAIL,
        "pids.max",
        "docker run --pids-limit=260 …",
    ),
    Case("processes", limits(pids=Limit(100, 100, 95)), FAIL, "pids.max", "sudo systemctl set-property user-"),
    # ---- host --------------------------------------------------------------------------------------------------
    Case("memfd", {}, PASS, "offered"),
    Case("memfd", part("offers", memfd="this Python has no os.memfd_create"), WARN, "no os.memfd", "uname -r"),
    Case(
        "memfd",
        {**part("offers", memfd="memfd_create: Operation not permitted"), **IN_DOCKER},
        WARN,
        "not permitted",
        "docker run --security-opt seccomp=unconfined …",
    ),
    Case("python", {}, PASS, "Python 3.12.4"),
    Case("python", part("offers", free_threaded=True), WARN, "free-threaded", "uv venv --python 3.14"),
    Case("pidfd", {}, PASS, "offered"),
    Case("pidfd", part("offers", pidfd="pidfd_open: Function not implemented"), WARN, "start cold", "uname -r"),
    Case(
        "pidfd",
        {**part("offers", pidfd="pidfd_open: Operation not permitted"), **IN_DOCKER},
        WARN,
        "not permitted",
        "docker run --security-opt seccomp=unconfined …",
    ),
    Case("overcommit", {}, PASS, "vm.overcommit_memory=0"),
    Case("overcommit", part("memory", overcommit=1), PASS, "vm.overcommit_memory=1"),
    Case(
        "overcommit",
        part("memory", overcommit=2),
        WARN,
        "68.0 GiB are left to reserve",
        "sudo sysctl vm.overcommit_memory=0",
    ),
    Case("overcommit", part("memory", address_space=8 * GIB), WARN, "`ulimit -v` is 8388608", "ulimit -v unlimited"),
    Case("overcommit", part("memory", overcommit=None), UNKNOWN, "cannot be read", "sysctl vm.overcommit_memory"),
    Case("swap", {}, PASS, "0 B of 8.0 GiB in use"),
    Case("swap", part("memory", swap_total=0, swap_free=0), PASS, "none"),
    Case("swap", part("memory", swap_free=GIB), WARN, "7.0 GiB of 8.0 GiB in use", "swapon --show; free -h"),
    Case("swap", part("memory", swap_total=None), UNKNOWN, "cannot be read", "swapon --show; free -h"),
    Case("cpu-governor", {}, PASS, "performance (intel_pstate, performance)"),
    Case("cpu-governor", governors(), PASS, "no choice of governor"),
    Case("cpu-governor", governors(("schedutil", "acpi-cpufreq", "")), PASS, "schedutil"),
    Case("cpu-governor", governors(("powersave", "intel_pstate", "balance_performance")), PASS, "powersave"),
    *(
        Case("cpu-governor", governors(each), WARN, "stay slow", "sudo cpupower frequency-set -g performance")
        for each in (("powersave", "acpi-cpufreq", ""), ("powersave", "intel_pstate", "power"), ("powersave", "", ""))
    ),
    Case("clock-source", {}, PASS, "tsc"),
    Case("clock-source", part("cpus", clock_source="kvm-clock"), PASS, "kvm-clock"),
    Case("clock-source", part("cpus", clock_source="hpet"), WARN, "hpet", "cat /sys/devices/system/clocksource"),
    Case("clock-source", part("cpus", clock_source=None), UNKNOWN, "cannot be read", "cat /sys/devices/system"),
    # ---- environment and folders -------------------------------------------------------------------------------
    Case("thread-variables", {}, PASS, "none"),
    Case("thread-variables", {"variables": {"OMP_NUM_THREADS": "4"}}, PASS, "workers keep OMP_NUM_THREADS=4"),
    Case(
        "thread-variables",
        {"variables": {"OMP_NUM_THREADS": "5,2", "MKL_NUM_THREADS": "1"}},
        WARN,
        "OMP_NUM_THREADS=5: 8 workers with 5 threads each on 16 CPUs",
        "unset OMP_NUM_THREADS",
    ),
    Case(
        "thread-variables",
        {"variables": {"OMP_NUM_THREADS": "64"}, **target(workers=0)},
        WARN,
        "64 threads in each worker",
        "unset OMP_NUM_THREADS",
    ),
    Case("launcher-variables", {}, PASS, "none"),
    Case("launcher-variables", {"left_out": ("RANK",), "variables": {"RANK": "0"}}, PASS, "do not get RANK"),
    Case(
        "launcher-variables",
        {"left_out": ("RANK", "WORLD_SIZE"), "variables": {"RANK": "0", "WORLD_SIZE": "8"}},
        WARN,
        "WORLD_SIZE=8: each of these processes",
        "env -u RANK -u LOCAL_RANK -u WORLD_SIZE gpuexec run …",
    ),
    Case("versions", {}, PASS, "gpuexec 0.1.0, nvidia-ml-py 13.580, torch 2.9.0"),
    Case(
        "versions",
        {"packages": dataclasses.replace(PACKAGES, conflicts=(("torch", "numpy>=2", "1.26.4"),))},
        WARN,
        "torch 2.9.0 requires numpy>=2; 1.26.4",
        "python -m pip install 'numpy>=2'",
    ),
    Case(
        "versions",
        {"packages": dataclasses.replace(PACKAGES, conflicts=(("gpuexec", "psutil>=5.9", "not installed"),))},
        FAIL,
        "requires psutil",
        "python -m pip install 'psutil>=5.9'",
    ),
    Case("versions", part("packages", versions={}), UNKNOWN, "no installed package", "python -m pip list"),
    *(
        case
        for purpose in ("runs", "checkpoint", "spill")
        for name in [{"runs": "run-folder"}.get(purpose, f"{purpose}-folder")]
        for option in [{"runs": "run_dir", "spill": "spill_dir"}.get(purpose, purpose)]
        for case in (
            Case(name, {}, PASS, "100.0 GiB free"),
            Case(name, folder(purpose, space=Space(GIB, GIB // 2)), FAIL, "512.0 MiB free", "df -h /"),
            Case(name, folder(purpose, space=Space(9 * GIB, 9 * GIB)), WARN, "9.0 GiB free", "df -h /"),
            Case(
                name, folder(purpose, problem="Read-only file system", path="/a b"), FAIL, "Read-only", "ls -ld '/a b'"
            ),
            Case(
                name,
                folder(purpose, file_system="nfs4"),
                FAIL if purpose == "checkpoint" else WARN,
                "is on nfs4",
                f"gpuexec run … -o {option}=",
            ),
            Case(name, folder(purpose, file_system=None, exists=False), PASS, "(not made yet): file system not known"),
        )
    ),
    Case("run-folder", {"folders": ()}, PASS, "runs write nothing"),
    Case("checkpoint-folder", {"folders": FOLDERS[:1]}, PASS, "no checkpoint is named"),
    Case(
        "spill-folder", folder("spill", file_system="tmpfs"), WARN, "in memory (tmpfs)", "gpuexec run … -o spill_dir="
    ),
    Case("run-folder", folder("runs", file_system="fuse.sshfs"), WARN, "fuse.sshfs", "gpuexec run … -o run_dir="),
    # ---- pipeline ----------------------------------------------------------------------------------------------
    Case("target", {}, PASS, "pipeline.py:pipeline"),
    Case(
        "target",
        target(load_problem="ImportError: no"),
        FAIL,
        "ImportError",
        "gpuexec plan pipeline.py:pipeline --set n=3",
    ),
    Case("plan", {}, PASS, "at most 8 workers at once on 16 CPUs: embed 8 × 1 CPU"),
    Case("plan", target(plan_problem="asks for 3 GPUs"), FAIL, "asks for 3 GPUs", "gpuexec plan pipeline.py"),
    Case(
        "plan",
        target(plan_problem="held", is_busy=True),
        WARN,
        "held",
        "gpuexec run pipeline.py:pipeline --set n=3 -o busy_gpus=wait",
    ),
    Case("plan", target(notes=("GPU 1 is left out",)), WARN, "GPU 1 is left out", "gpuexec plan pipeline.py"),
    Case("plan", target(load_problem="no"), UNKNOWN, "there is no pipeline", "gpuexec plan pipeline.py"),
    Case("requirements", {}, PASS, "all that stages ask for"),
    Case(
        "requirements",
        target(unmet=("stage 'a' asks for 'numpy>=9' in its runtime_env['pip'], but numpy 2 is installed",)),
        FAIL,
        "but numpy 2 is installed",
        "python -m pip install 'numpy>=9'",
    ),
    Case("requirements", target(load_problem="no"), UNKNOWN, "there is no pipeline", "gpuexec plan pipeline.py"),
    Case("start-up", target(starts=(StageStart("a", 3), StageStart("b", 2))), PASS, "5 workers are forked"),
    Case("start-up", target(spawned="start_method='spawn'"), PASS, "itself: start_method='spawn'"),
    Case(
        "start-up",
        target(starts=(StageStart("a", 3, ("m",), "started a thread ('x')", "m.client"),)),
        WARN,
        "stage 'a': module 'm.client' started a thread ('x') when it was imported, so that each of 3",
        "python -X importtime -c 'import m.client'",
    ),
    Case(
        "start-up",
        target(starts=(StageStart("a", 3, ("m", "n"), failed="cannot be imported"),)),
        FAIL,
        "cannot be imported",
        "python -c 'import m, n'",
    ),
    Case(
        "start-up", target(not_sendable=(("a", "TypeError: lock"),)), FAIL, "TypeError: lock", "gpuexec run pipeline.py"
    ),
    Case("start-up", target(starts_unknown="not within 120 s"), UNKNOWN, "120 s", "gpuexec run pipeline.py"),
    Case("start-up", target(plan_problem="no"), UNKNOWN, "there is no plan", "gpuexec plan pipeline.py"),
]


def look(name: str, changes: dict[str, Any]):
    (result,) = examine(facts(**changes), [BY_NAME[name]]).results
    return result


@pytest.mark.parametrize("name", BY_NAME)
def test_a_check(name: str):
    """A test of all its cases: each test of its own would take a hundred times as long as the check."""
    for case in (case for case in CASES if case.check == name):
        result = look(case.check, case.changes)
        assert result.outcome is case.outcome, (case, result.findings)
        worst = [finding for finding in result.findings if finding.outcome is case.outcome]
        said = [finding for finding in worst if case.said in finding.subject + finding.found]
        assert said, (case, [finding.subject + finding.found for finding in worst])
        assert said[0].command.startswith(case.remedy), (case, said[0].command)
        assert bool(case.remedy) == (case.outcome is not PASS), "what is wrong has a remedy, what is right needs none"


def test_every_check_is_tested_in_both_outcomes():
    for name in BY_NAME:
        outcomes = {case.outcome for case in CASES if case.check == name}
        assert PASS in outcomes, name
        assert outcomes - {PASS}, name


def as_pattern(template: str) -> str:
    return "".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", template))


def test_the_page_has_every_remedy_that_a_check_advises_and_no_other():
    """docs/doctor.md is made from ``remedies``."""
    used: dict[str, set[str]] = {name: set() for name in BY_NAME}
    for case in CASES:
        patterns = {template: as_pattern(template) for template in BY_NAME[case.check].remedies}
        for finding in look(case.check, case.changes).findings:
            assert bool(finding.remedy) == (finding.outcome is not PASS), finding
            found = {template for template, pattern in patterns.items() if re.fullmatch(pattern, finding.command)}
            assert found or not finding.remedy, finding.command
            used[case.check] |= found
    shared = {"nvidia-smi -q -i {gpus}", "gpuexec doctor --check driver --check gpus"}
    for check in CHECKS:
        assert set(check.remedies) - used[check.name] <= shared, check.name


def test_a_fit_machine_passes_all_checks():
    examination = examine(facts(), CHECKS)
    assert [result.check.name for result in examination.results if result.outcome is not PASS] == []
    assert examination.exit_status == 0


def test_a_machine_without_gpus_passes_too():
    examination = examine(facts(**without_driver(), torch=TorchFacts(), target=None), CHECKS)
    assert examination.exit_status == 0
    assert not [result for result in examination.results if result.check.needs_target]


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80",), False),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("sm_100f",), False),
        ((12, 0), ("compute_90",), True),
        ((12, 0), ("compute_90a",), False),
        ((8, 0), ("compute_90",), False),
        ((12, 0), (), True),
        ((12, 0), ("gfx90a",), False),
    ],
)
def test_code_for_an_architecture(capability, architectures, fits):
    assert runs_on(capability, architectures) is fits


def test_links_without_nvlink_are_named():
    node = dataclasses.replace(DRIVER.node, links=(Link(0, 1, LinkKind.SYSTEM),))
    (finding,) = look("numa", driver(node=node)).findings
    assert finding.found == "links between GPUs: system"
    (finding,) = look("numa", driver(node=Node(HOST, (gpu(0),)), health=HealthListing((health(0),)))).findings
    assert finding.found == "one GPU"


def test_root_is_not_held_to_the_limit_on_processes():
    changes = limits(processes=Limit(310, 310, 300), uid=0)
    assert [finding.found for finding in look("processes", changes).findings] == ["no limit"]


def test_memory_of_swap_is_compared_with_that_of_the_cgroup():
    host = dataclasses.replace(HOST, memory_total_bytes=4 * GIB)
    memory = dataclasses.replace(MEMORY, swap_free=7 * GIB)
    assert look("swap", {"memory": memory, **part("cpus", host=host)}).outcome is WARN
    assert look("swap", {"memory": memory}).outcome is PASS


def test_a_folder_that_is_not_there_yet_is_said_to_be():
    assert Folder("runs", "/x").exists is False
    assert "(not made yet)" in look("run-folder", folder("runs", exists=False)).findings[0].found
