"""XIDs, the numbers that the driver writes to the kernel log when a GPU has a fault, and NVIDIA's advice on each.

Advice is the "immediate action" of the catalogue of XIDs for GPUs since Ampere ("Analyzing Xid Errors with the Xid
Catalog", docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html). Numbers that the catalogue calls unused are
left out. Descriptions are ours.
"""

from __future__ import annotations

from enum import StrEnum

from gpuexec.records import Record


class Advice(StrEnum):
    """NVIDIA's immediate action, by its name in the catalogue."""

    IGNORE = "IGNORE"
    RESTART_APP = "RESTART_APP"
    RESET_GPU = "RESET_GPU"
    RESTART_VM = "RESTART_VM"
    RESTART_BM = "RESTART_BM"
    CHECK_MECHANICALS = "CHECK_MECHANICALS"
    CHECK_UVM = "CHECK_UVM"
    UPDATE_SWFW = "UPDATE_SWFW"
    CONTACT_SUPPORT = "CONTACT_SUPPORT"
    XID_154 = "XID_154"  # as the recovery action says
    WORKFLOW_XID_45 = "WORKFLOW_XID_45"  # as the other XIDs beside it say
    WORKFLOW_XID_48 = "WORKFLOW_XID_48"
    WORKFLOW_NVLINK_ERR = "WORKFLOW_NVLINK_ERR"
    WORKFLOW_NVLINK5_ERR = "WORKFLOW_NVLINK5_ERR"


class Xid(Record):
    """What an XID means, and what to do first."""

    what: str
    advice: Advice


def _restart_app(*numbers: int, what: str) -> dict[int, Xid]:
    return dict.fromkeys(numbers, Xid(what, Advice.RESTART_APP))


XIDS: dict[int, Xid] = {
    8: Xid("a channel timed out", Advice.RESTART_APP),
    **_restart_app(11, 25, 32, what="invalid or corrupted push buffer"),
    13: Xid("graphics engine exception", Advice.RESTART_APP),
    31: Xid("memory page fault", Advice.RESTART_APP),
    37: Xid("driver firmware error", Advice.IGNORE),
    38: Xid("driver firmware error", Advice.IGNORE),
    **_restart_app(39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136), what="copy engine exception"),
    43: Xid("a process's work was stopped", Advice.IGNORE),
    44: Xid("fault during a context switch", Advice.IGNORE),
    45: Xid("clean-up after an earlier error or a killed process", Advice.WORKFLOW_XID_45),
    46: Xid("GPU stopped processing", Advice.RESET_GPU),
    48: Xid("double-bit ECC error", Advice.WORKFLOW_XID_48),
    54: Xid("auxiliary power is not connected", Advice.CHECK_MECHANICALS),
    60: Xid("video processor exception", Advice.RESTART_APP),
    62: Xid("internal micro-controller halted", Advice.RESET_GPU),
    63: Xid("row remapping or page retirement recorded, done at the next reset", Advice.IGNORE),
    64: Xid("row remapping or page retirement failed", Advice.RESET_GPU),
    66: Xid("illegal access by the driver", Advice.IGNORE),
    67: Xid("illegal access by the driver", Advice.IGNORE),
    **_restart_app(68, 83, 84, 88, 89, 96, 97, 98, what="video decoder exception"),
    69: Xid("graphics engine class error", Advice.RESTART_APP),
    74: Xid("NVLink error", Advice.WORKFLOW_NVLINK_ERR),
    78: Xid("a virtual GPU did not start", Advice.UPDATE_SWFW),
    79: Xid("GPU has fallen off the bus", Advice.RESTART_BM),
    80: Xid("corrupted data was sent to the GPU", Advice.RESTART_APP),
    **_restart_app(82, *range(99, 106), what="JPEG decoder error"),
    **_restart_app(86, 139, what="optical flow engine exception"),
    92: Xid("many corrected ECC errors", Advice.IGNORE),
    93: Xid("the board's own memory is written to too often", Advice.IGNORE),
    94: Xid("contained memory error", Advice.RESTART_APP),
    95: Xid("uncontained memory error", Advice.RESET_GPU),
    106: Xid("test message", Advice.IGNORE),
    107: Xid("test message", Advice.IGNORE),
    109: Xid("context switch timeout", Advice.RESET_GPU),
    110: Xid("security fault", Advice.RESET_GPU),
    119: Xid("GSP did not answer in time", Advice.RESET_GPU),
    120: Xid("GSP error", Advice.RESET_GPU),
    121: Xid("error of the link between chips", Advice.IGNORE),
    136: Xid("an NVLink could not be trained", Advice.RESET_GPU),
    137: Xid("NVLink access fault", Advice.IGNORE),
    140: Xid("unrecovered ECC error", Advice.RESET_GPU),
    141: Xid("CUDA fast path error", Advice.IGNORE),
    142: Xid("video encoder error", Advice.CONTACT_SUPPORT),
    143: Xid("GPU initialisation failed", Advice.RESET_GPU),
    **dict.fromkeys(range(144, 151), Xid("NVLink error", Advice.WORKFLOW_NVLINK5_ERR)),
    151: Xid("key rotation error", Advice.RESTART_VM),
    152: Xid("memory management error of the DLA", Advice.IGNORE),
    153: Xid("timeout of the DLA", Advice.IGNORE),
    154: Xid("the advised recovery action changed, see nvidia-smi -q", Advice.XID_154),
    155: Xid("NVLink error found by software", Advice.RESET_GPU),
    156: Xid("a part of the GPU was retired", Advice.RESET_GPU),
    157: Xid("a part of the GPU could not be retired", Advice.IGNORE),
    158: Xid("fatal timeout", Advice.RESET_GPU),
    159: Xid("error of coherent memory", Advice.CHECK_UVM),
    160: Xid("a memory channel was retired", Advice.IGNORE),
    161: Xid("a memory channel could not be retired", Advice.IGNORE),
}
