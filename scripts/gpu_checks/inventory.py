"""What gpuexec reads of the GPUs, against what NVIDIA's own tool prints."""

from __future__ import annotations

import shutil
import subprocess

from gpu_checks import smi
from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Seen

_LIMIT_S = 60  # without persistence mode, each GPU takes seconds to open


def against_nvidia_smi(machine: Machine) -> Seen:
    """Compare the whole inventory with ``nvidia-smi -q -x``."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise CannotCheck("there is no nvidia-smi on PATH")
    node = machine.node
    printed = subprocess.run([program, "-q", "-x"], check=False, capture_output=True, text=True, timeout=_LIMIT_S)
    if printed.returncode:
        raise CannotCheck(f"nvidia-smi -q -x ended with status {printed.returncode}: {printed.stdout.strip()[:300]}")
    try:
        log = smi.parse(printed.stdout)
    except smi.NotReadable as error:
        raise CannotCheck(str(error)) from error
    problems = [*smi.differences(log, node), *(f"gpuexec cannot read {each}" for each in smi.unread(log, node))]
    slices = sum(len(gpu.mig_slices) for gpu in node.gpus)
    return Seen(f"{len(node.gpus)} GPU(s), {slices} MIG slice(s) alike", tuple(problems), smi.as_facts(log))


CHECKS = (
    Check(
        "inventory.nvidia_smi",
        "Driver, CUDA, PCI addresses, UUIDs, names, memory, compute mode and MIG slices are those of nvidia-smi -q -x.",
        against_nvidia_smi,
    ),
)
