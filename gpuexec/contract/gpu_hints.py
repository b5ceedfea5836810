"""Which option to try, where a failure looks as if the worker's GPUs had caused it: which it sees, or how much of one.

The evidence is text: the exception's, and the source lines that raised it. So a hint is worded as a condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gpuexec.contract.allocation import Allocation
from gpuexec.contract.gpu_limits import OUT_OF_MEMORY_TEXTS
from gpuexec.units import GIB

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_ABOUT_GPUS = re.compile(
    r"cuda|cudnn|cublas|nvidia|nvml|\bhip\b|accelerator|active drivers|device ordinal|"
    r"(?<![a-z])gpus?(?![a-z])|cupy|cudf|cuml|rmm",
    re.IGNORECASE,
)
_EMPTY_NUMBER = "invalid literal for int() with base 10: ''"
# What int(), std::stoi and their like say of a UUID
_NOT_A_NUMBER = re.compile(r"(invalid literal|could not convert|invalid value|stoi|stol)[^\n]*(GPU|MIG)|\bsto[il]\b")
_UUID_DIGITS = 12  # "GPU-" and eight digits: libraries shorten UUIDs


def hint_for(text: str, allocation: Allocation, traceback: str = "", *, limits_share: bool = True) -> str | None:
    """Return a hint on a failed worker. ``text``: the exception's, or the last lines of a worker that died.

    ``limits_share``: libraries in the worker were told to keep to its part of a GPU.
    """
    evidence = "\n".join([text, *_raising_lines(traceback.splitlines())])
    if limits_share and any(phrase in evidence for phrase in OUT_OF_MEMORY_TEXTS):
        for share in allocation.gpus:
            if share.is_partial and share.memory_bytes is not None:
                return _OUT_OF_SHARE.format(index=share.index, granted=share.memory_bytes / GIB)
    if not allocation.cuda_visible_devices:
        return _SEES_NONE if _ABOUT_GPUS.search(evidence) or _EMPTY_NUMBER in evidence else None
    entries = allocation.cuda_visible_devices.split(",")
    if entries[0].isdigit():
        return None
    uuids = (entry[:_UUID_DIGITS] for entry in entries)
    if _VARIABLE in evidence or _NOT_A_NUMBER.search(evidence) or any(uuid in evidence for uuid in uuids):
        return _NAMED_BY_UUID
    return None


_SEES_NONE = (
    f"this stage asks for no GPU, so its workers see none ({_VARIABLE} is empty). If it failed for that reason, ask "
    "for one with Resources(gpus=…) or Resources(gpu_memory_gb=…), or show all GPUs to such stages with the option "
    "cpu_stages_see_gpus=True"
)
_OUT_OF_SHARE = (
    "the worker's share of GPU {index} is {granted:.2f} GiB, its CUDA context included, and libraries are told to keep "
    "to it. If the stage needs more, ask for that with Resources(gpu_memory_gb=…); share_enforcement='off' tells "
    "libraries nothing"
)
_NAMED_BY_UUID = (
    f"gpuexec names a worker's GPUs in {_VARIABLE} by UUID. If a library expected numbers there, set the option "
    "gpu_pinning='index'"
)


def _raising_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield what a traceback says, and of each of its parts the last frame: the place that raised.

    A frame's path counts only below ``site-packages``: folders of users may be called anything.
    """
    frame: list[str] = []
    for line in lines:
        if line.startswith("  File "):
            frame = [line.rpartition("site-packages")[2] if "site-packages" in line else ""]
        elif line.startswith(" "):
            frame.append(line)
        elif line:
            yield from frame
            yield line
            frame = []
