"""Judges what was read against what gpuexec promises. Pure: values in, sentences about what is wrong out.

Sizes are in bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from gpuexec.units import GIB, MIB

CONTEXT_BYTES = 2 * GIB
"""More than a CUDA context takes of a GPU outside allocators: some 300 to 900 MiB, by GPU and library."""

ALLOCATOR_SLACK_BYTES = 2 * MIB
"""Allocators round requests up; torch's smallest block from the driver is 2 MiB."""

NOISE_BYTES = 64 * MIB
"""What a GPU's used memory may change by while nobody that we know of uses it."""

FREED_WITHIN_S = 2.0
ENERGY_TOLERANCE = 0.1
SAMPLER_CORE_FRACTION = 0.05


def same_devices(who: str, planned: Sequence[str], seen: Sequence[str]) -> list[str]:
    """Compare UUIDs in CUDA's order. Libraries write them with or without "GPU-" or "MIG-"."""
    if [_digits(uuid) for uuid in planned] == [_digits(uuid) for uuid in seen]:
        return []
    return [f"{who} was given {_listed(planned)}, and CUDA shows it {_listed(seen)}"]


def _digits(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _listed(uuids: Sequence[str]) -> str:
    return ", ".join(uuids) or "no GPU"


def at_least_known(what: str, figure: float, known: int, slack: int) -> list[str]:
    """Judge a figure that should be ``known`` bytes, or up to ``slack`` more."""
    if known <= figure <= known + slack:
        return []
    return [f"{what} is {figure / MIB:,.0f} MiB, and {known / MIB:,.0f} to {(known + slack) / MIB:,.0f} were expected"]


def freed(who: str, seconds: float | None, limit_s: float = FREED_WITHIN_S) -> list[str]:
    """Judge how long memory stayed in use after a kill; ``None``: longer than it was watched."""
    if seconds is not None and seconds <= limit_s:
        return []
    spent = "more time than it was watched for" if seconds is None else f"{seconds:.2f} s"
    return [f"the memory of the killed {who} took {spent} to be free again; promised are {limit_s:g} s"]


def joules_of(samples: Sequence[tuple[float, float]]) -> float:
    """Integrate (seconds, watts) by trapezoids."""
    pairs = itertools.pairwise(samples)
    return sum((end - start) * (first + last) / 2 for (start, first), (end, last) in pairs)


def energy_agrees(gpu: int, counted_j: float, integrated_j: float, tolerance: float = ENERGY_TOLERANCE) -> list[str]:
    """Compare the energy counter's joules with those of the power samples."""
    if integrated_j > 0 and abs(counted_j - integrated_j) <= tolerance * integrated_j:
        return []
    figures = f"the energy counter says {counted_j:,.1f} J, the power samples {integrated_j:,.1f} J"
    return [f"GPU {gpu}: {figures}; they may differ by {tolerance:.0%}"]


def sampler_is_cheap(cpu_s_a_sample: float, samples_a_second: float = 2.0) -> list[str]:
    """Judge the sampler's CPU time at its default rate."""
    part = cpu_s_a_sample * samples_a_second
    if part <= SAMPLER_CORE_FRACTION:
        return []
    return [f"sampling takes {part:.1%} of a core, and at most {SAMPLER_CORE_FRACTION:.0%} is promised"]


def same_scores(cpu: Mapping[str, float], gpu: Mapping[str, float], tolerance: float) -> list[str]:
    """Compare the scores of the same texts, as absolute differences."""
    if cpu.keys() != gpu.keys():
        return [f"the CPU scored {len(cpu)} texts, the GPU {len(gpu)}: not the same ones"]
    off = {key: abs(cpu[key] - gpu[key]) for key in cpu}
    wrong = [key for key, distance in off.items() if not distance <= tolerance]  # NaN is wrong too
    if not wrong:
        return []
    worst = max(off.values(), key=lambda distance: math.inf if math.isnan(distance) else distance)
    return [
        f"{len(wrong)} of {len(cpu)} scores differ between CPU and GPU by more than {tolerance:g}, at most {worst:g}"
    ]


def same_kept(cpu: Mapping[str, float], gpu: Mapping[str, float], threshold: float, tolerance: float) -> list[str]:
    """Compare which texts a threshold keeps. Those that are as close to it as scores may differ are left out."""
    wrong = [
        key
        for key in cpu.keys() & gpu.keys()
        if abs(cpu[key] - threshold) > tolerance and (cpu[key] >= threshold) != (gpu[key] >= threshold)
    ]
    return [f"{len(wrong)} texts are kept on one and dropped on the other, such as {min(wrong)}"] if wrong else []


def template_is_clean(pid: int, listed: Sequence[int], open_files: Sequence[str]) -> list[str]:
    """Judge a template. ``listed``: pids that NVML lists on any GPU. CUDA opens /dev/nvidia-uvm when it initialises."""
    problems = []
    if pid in listed:
        problems.append(f"NVML lists the template (pid {pid}) as using a GPU")
    if any(name.startswith("/dev/nvidia-uvm") for name in open_files):
        problems.append(f"the template (pid {pid}) has opened /dev/nvidia-uvm, as CUDA does when it is initialised")
    return problems
