"""What is read of a worker's GPU memory, and what keeps a worker within it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_checks import compare
from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import Fills, Holds, Piece, pieces
from gpuexec import Pipeline
from gpuexec.contract import metrics
from gpuexec.units import GIB, MIB

_SIZE, _PEAK = 512 * MIB, 1536 * MIB
_PLANNED_GB = 4
_STRICT_GB = 2


def known_amounts(machine: Machine) -> Seen:
    """Hold 512 MiB, and compare allocator, NVML and plan."""
    seen, figures = _hold(machine)
    problems = compare.at_least_known("the allocator's figure", seen["allocated"], _SIZE, compare.ALLOCATOR_SLACK_BYTES)
    if seen["planned"] != _PLANNED_GB * GIB:
        problems.append(f"the plan gave the worker {seen['planned']} bytes, not {_PLANNED_GB} GiB")
    if seen["grown"] is not None:
        problems += compare.at_least_known("NVML's growth of the GPU", seen["grown"], _SIZE, compare.CONTEXT_BYTES)
    for name, slack in (
        (metrics.TORCH_ALLOCATED, compare.ALLOCATOR_SLACK_BYTES),
        (metrics.TORCH_RESERVED, compare.CONTEXT_BYTES),
        (metrics.PROCESS_USED, compare.CONTEXT_BYTES),
    ):
        if name in figures:
            problems += compare.at_least_known(f"the metric {name}", figures[name], _SIZE, slack)
    return Seen(_in_words(figures), tuple(problems), {**seen, "metrics": figures})


def peaks(machine: Machine) -> Seen:
    """Hold 1,536 MiB for a moment and 512 MiB at the end; the peaks are of the former."""
    seen, figures = _hold(machine)
    found = {name: figures[name] for name in (metrics.TORCH_PEAK, metrics.PROCESS_PEAK) if name in figures}
    if not found:
        raise CannotCheck(f"neither torch nor NVML says what the worker holds: {_absences(figures)}")
    slack = {metrics.TORCH_PEAK: compare.ALLOCATOR_SLACK_BYTES, metrics.PROCESS_PEAK: compare.CONTEXT_BYTES}
    problems = [
        problem
        for name, value in found.items()
        for problem in compare.at_least_known(f"the metric {name}", value, _PEAK, slack[name])
    ]
    return Seen(_in_words(found), tuple(problems), {**seen, "metrics": figures})


def strict_share(machine: Machine) -> Seen:
    """Hold twice as much as the share; the run must end with an error that says so."""
    machine.supports("share_enforcement")
    machine.free_devices(2 * _STRICT_GB * GIB)
    size = 2 * _STRICT_GB * GIB - GIB
    stage = Holds(machine.cuda, size, size, gpu_memory_gb=_STRICT_GB)
    try:
        (task,) = Pipeline("gpu-check", stages=[stage]).run(
            executor(share_enforcement="strict"), initial_tasks=pieces(0)
        )
    except Exception as error:  # noqa: BLE001 - which one it is, is what is checked
        kind, text = type(error).__name__, str(error)
        right = kind == "GpuShareExceeded" or "out of memory" in text.lower() or "OutOfMemory" in kind
        problems = () if right else (f"the run ended with another error, {kind}: {text[:300]}",)
        return Seen(f"the run ended with {kind}", problems, {"error": kind, "message": text[:1000]})
    figures = _figures(task)
    if metrics.PROCESS_USED not in figures:
        raise CannotCheck(f"NVML does not tell what the worker holds: {_absences(figures)}")
    return Seen("", (f"a worker with {_STRICT_GB} GiB held {size / GIB:g} GiB, and nothing stopped it",))


def oom_split(machine: Machine) -> Seen:
    """Four tasks that need 160 % of the GPU together, and 80 % in pairs."""
    free = [device.memory_free_bytes or 0 for device in machine.free_devices(2 * GIB)]
    if max(free) > 1.5 * min(free):
        raise CannotCheck("the GPUs differ in size: show one of them with CUDA_VISIBLE_DEVICES")
    ran = executor(split_on_oom=True)
    stage = Fills(machine.cuda, int(0.4 * min(free)), gpus=1)
    done = Pipeline("gpu-check", stages=[stage]).run(ran, initial_tasks=pieces(*range(4)))
    splits = ran.last_report.stages[0].metrics.get(metrics.OOM_SPLITS, 0)
    problems = []
    if sorted(task.data[0] for task in done) != list(range(4)):
        problems.append(f"of 4 tasks, {len(done)} came out")
    if not splits:
        problems.append("no batch was halved, although it needed more than the GPU has")
    sizes = [task.data[1] for task in done]
    return Seen(f"{splits:g} split(s); batches of {sizes}", tuple(problems), {"splits": splits})


def _hold(machine: Machine) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what a worker saw that held known amounts, and gpuexec's metrics of its GPU by their short names."""
    machine.free_devices(_PLANNED_GB * GIB)
    stage = Holds(machine.cuda, _SIZE, _PEAK, gpu_memory_gb=_PLANNED_GB)
    (task,) = Pipeline("gpu-check", stages=[stage]).run(executor(), initial_tasks=pieces(0))
    return task.data, _figures(task)


def _figures(task: Piece) -> dict[str, float]:
    """Return gpuexec's metrics of the GPU that a task of `Holds` was on, by their short names."""
    prefix = metrics.gpu_key(task.data["index"], "")
    measured = task._stage_perf[-1].custom_metrics
    return {key.removeprefix(prefix): value for key, value in measured.items() if key.startswith(prefix)}


def _in_words(figures: Mapping[str, float]) -> str:
    sizes = [
        f"{name.removesuffix('_bytes')} {value / MIB:,.0f} MiB" for name, value in figures.items() if "_bytes" in name
    ]
    return ", ".join(sizes) or f"no figures of the worker: {_absences(figures)}"


def _absences(figures: Mapping[str, float]) -> str:
    return ", ".join(name.removeprefix("memory_absent.") for name in figures if "absent." in name) or "no reason given"


CHECKS = (
    Check(
        "memory.known_amounts",
        "Allocator, NVML and plan agree about a worker that holds 512 MiB of GPU memory.",
        known_amounts,
    ),
    Check("memory.peaks", "The peak of a batch is that of its largest moment, 1,536 MiB.", peaks),
    Check("memory.strict_share", "share_enforcement='strict' ends a worker that exceeds its share.", strict_share),
    Check("memory.oom_split", "split_on_oom=True halves a batch that does not fit, and all tasks come out.", oom_split),
)
