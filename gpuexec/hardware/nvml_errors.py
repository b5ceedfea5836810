"""What NVML's errors mean to a user: their usual cause, and the remedy.

The meanings are those of nvml.h (`nvmlReturn_t`). What the driver's documentation and its users name as causes and
remedies is from "NVIDIA GPU Debug Guidelines", "XID Errors" and "Driver Persistence" (docs.nvidia.com/deploy).
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TIMEOUT_VARIABLE = "GPUEXEC_NVML_TIMEOUT_S"

NOT_SUPPORTED = "not supported by this GPU"
GPU_IS_LOST = "the GPU is lost (it has fallen off the bus; see dmesg)"
_HANG_REMEDY = (
    "The driver or {the_gpu} is stuck: `nvidia-smi` then hangs too, and `dmesg` says more. Reset the GPU "
    "(`nvidia-smi --gpu-reset -i {number}`, as root) or reboot. If the driver is only slow, as without persistence "
    f"mode (`nvidia-smi -pm 1`), set {TIMEOUT_VARIABLE} to the seconds to wait"
)

_OURS = "this is a fault of gpuexec or of nvidia-ml-py; please report it"
_UPDATE = "the driver and the package nvidia-ml-py are of different ages; update the older one"
# By the number of nvmlReturn_t. Every text reads on after "NVML error N, ".
CAUSES = {
    1: f"not initialised: {_OURS}",
    2: f"invalid argument: the GPU or MIG slice is no longer there (MIG was reconfigured?), or {_OURS}",
    3: NOT_SUPPORTED,
    4: "no permission: this user may not use the GPU, or not do this; check the permissions of /dev/nvidia*, and that "
    "the container was given the GPU",
    6: "not found: there is no such GPU here; `nvidia-smi -L` lists those that there are",
    7: f"a buffer was too small: {_OURS}",
    8: "insufficient power: the GPU's power cables are not attached, or the supply is too weak; check the cables",
    9: "the driver's kernel module is not loaded: try `nvidia-smi`, or `modprobe nvidia` as root, or reboot; after an "
    "update of the kernel the module may have to be built again",
    10: "timeout: the driver did not answer in time, which may be load or a GPU that is stuck; see dmesg",
    11: "interrupt problem: the GPU's interrupts do not reach the kernel; see dmesg, reboot, and look for a newer BIOS "
    "or kernel (in a virtual machine: how the GPU is passed through)",
    12: f"{LIBRARY} was not found or does not load",
    13: "not offered by this driver version",
    14: "corrupted infoROM: the board's own memory is damaged; `nvidia-smi` shows a warning; have the GPU serviced",
    15: GPU_IS_LOST,
    16: "the GPU needs a reset before it can be used again: end what uses it, then `nvidia-smi --gpu-reset -i N` as "
    "root, or reboot",
    17: "refused by the operating system: often a container or cgroup that does not allow /dev/nvidia*, or a missing "
    "device node; in a container, restart it (systemd's daemon-reload takes GPUs away from running ones)",
    18: "driver/library version mismatch: the loaded NVIDIA kernel module and libnvidia-ml are of different versions "
    "(after an update, reload the module or reboot)",
    19: "the GPU is in use by another process that keeps this from being done: `nvidia-smi` lists the processes",
    20: "out of memory: the host or the driver has none left for this; see dmesg",
    21: "the GPU has no data for this yet: try again",
    23: "the driver has run out of a resource other than memory, such as channels or handles: end some of the "
    "processes that use the GPU",
    25: f"unknown version of an argument: {_UPDATE}",
    26: f"no longer offered by this driver version: {_UPDATE}",
    27: "not ready: the driver or the GPU's fabric is still starting (on NVSwitch machines: is nvidia-fabricmanager "
    "running?); try again",
    28: "no GPU was found: `lspci | grep -i nvidia` shows whether the machine sees one, dmesg why the driver does not",
    29: "the GPU is in a state in which this cannot be done, such as during a reset; `nvidia-smi` and dmesg say more",
    999: "unknown error: the driver failed inside, often after an XID error, a suspend or an update; see dmesg, then "
    "reset the GPU or reboot",
}
# Numbers that no call of gpuexec can return: they are about initialising twice, vGPUs, clocks and resets.
NEVER_MET = {5, 22, 24, 30}
# Reasons that are no fault, or that say everything themselves.
_PLAIN = {3, 13, 15}
_LIBRARY_NOT_FOUND = 12
_IS_MISSING = "No such file"


def reason(error: Any) -> str:
    """Return why a reading failed, from a pynvml ``NVMLError``: what it is, its usual cause and the remedy."""
    number = int(error.value)
    cause = CAUSES.get(number, "which the documentation of gpuexec does not know; nvml.h may")
    return cause if number in _PLAIN else f"NVML error {number}, {cause}"


def with_remedy(hang: str) -> str:
    """Add what can be done to a text that says which call does not return."""
    gpu = re.search(r"\bGPU (\d+)\b", hang)
    if gpu is None:
        return f"{hang}. {_HANG_REMEDY.format(the_gpu='a GPU', number='N')}"
    return f"{hang}. {_HANG_REMEDY.format(the_gpu=gpu[0], number=gpu[1])}"


def why_unavailable(error: Any) -> str:
    """Return why NVML cannot be initialised."""
    if int(error.value) == _LIBRARY_NOT_FOUND:
        return _load_failure()
    return f"NVML cannot be initialised: {reason(error)}"


def _load_failure() -> str:
    """Ask the dynamic loader: pynvml reports every failure to load the library as "not found"."""
    problem = _problem_of_library()
    if problem is None:
        return f"{LIBRARY} does not load in this process"
    if _IS_MISSING in problem:
        return f"there is no NVIDIA driver on this machine ({LIBRARY} is not installed)"
    return f"the NVIDIA driver library does not load: {problem}"


def library_is_missing() -> bool:
    """Return whether the driver's library is not installed. One that is there and does not load is not missing."""
    return _IS_MISSING in (_problem_of_library() or "")


def _problem_of_library() -> str | None:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        return str(error)
    return None
