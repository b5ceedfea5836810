"""Whether each worker gets the GPUs that were planned for it, and CUDA shows it those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_checks import compare
from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import Looks, pieces
from gpuexec import Pipeline
from gpuexec.hardware.visible_devices import visible_value
from gpuexec.policies import GpuPinning


def environment(machine: Machine) -> Seen:
    """Look at the variables alone, in one worker for each device, by UUID and by index."""
    devices = {device.uuid: device for device in machine.free_devices()}
    problems, rows = [], []
    for pinning in GpuPinning:
        for row in look(machine, Looks(None, workers=len(devices), gpus=1), gpu_pinning=pinning.value):
            expected = visible_value([devices[uuid] for uuid in row["planned"]], pinning)
            problems += _variable_problems(row, expected)
            rows.append({"pinning": pinning.value, "variable": row["variable"]})
    return Seen(f"{len(devices)} device(s), by UUID and by index", tuple(problems), {"workers": rows})


def by_uuid(machine: Machine) -> Seen:
    """Ask CUDA, in one worker for each GPU and in one that has all of them."""
    return _as_cuda_shows(machine, "uuid")


def by_index(machine: Machine) -> Seen:
    """The same with numbers in CUDA_VISIBLE_DEVICES."""
    if all(device.is_mig for device in machine.free_devices()):
        raise CannotCheck("all devices are MIG slices, which have no numbers")
    return _as_cuda_shows(machine, "index")


def in_mig(machine: Machine) -> Seen:
    """One worker for each MIG slice."""
    slices = [device for device in machine.free_devices() if device.is_mig]
    if not slices:
        raise CannotCheck("no GPU here is divided into MIG slices")
    rows = look(machine, Looks(machine.cuda, workers=len(slices), gpus=1))
    return _judged(rows, f"{len(slices)} MIG slice(s), as CUDA shows them")


def two_on_one(machine: Machine) -> Seen:
    """Two workers on one GPU at the same time: each with half of it."""
    device = machine.free_devices()[0]
    meet = machine.folder / "meet"
    meet.mkdir()
    stage = Looks(machine.cuda, meet=meet, workers=2, gpus=0.5)
    rows = look(machine, stage)
    problems = [problem for row in rows for problem in compare.same_devices(row["worker"], row["planned"], row["seen"])]
    if len({row["pid"] for row in rows}) != 2:
        problems.append("the two tasks were not done by two workers")
    if len({tuple(row["planned"]) for row in rows}) != 1:
        problems.append("the two workers were not planned on the same GPU")
    return Seen(f"two processes computed on {device.name} at the same time", tuple(problems), {"workers": rows})


def look(machine: Machine, stage: Looks, **options: Any) -> list[dict[str, Any]]:
    """Run a stage with as many tasks as workers, each of which does one; return what they saw."""
    if stage.meet is None:
        stage.meet = machine.folder / f"meet-{len(list(machine.folder.iterdir()))}"
        stage.meet.mkdir()
    tasks = Pipeline("gpu-check", stages=[stage]).run(executor(**options), initial_tasks=pieces(*range(stage.workers)))
    return [task.data for task in tasks]


def _as_cuda_shows(machine: Machine, pinning: str) -> Seen:
    name = machine.cuda
    devices = [device for device in machine.free_devices() if not device.is_mig]
    if not devices:
        raise CannotCheck("all devices are MIG slices; pinning.mig is for these")
    rows = look(machine, Looks(name, workers=len(devices), gpus=1), gpu_pinning=pinning)
    if len(devices) > 1:
        rows += look(machine, Looks(name, gpus=len(devices)), gpu_pinning=pinning)
    return _judged(rows, f"{len(devices)} GPU(s), each alone and all in order")


def _judged(rows: Sequence[dict[str, Any]], summary: str) -> Seen:
    problems = [problem for row in rows for problem in compare.same_devices(row["worker"], row["planned"], row["seen"])]
    return Seen(summary, tuple(problems), {"workers": list(rows)})


def _variable_problems(row: dict[str, Any], expected: str) -> list[str]:
    problems = []
    if row["variable"] != expected:
        problems.append(f"{row['worker']} has CUDA_VISIBLE_DEVICES={row['variable']!r}, and {expected!r} was planned")
    if row["order"] != "PCI_BUS_ID":
        problems.append(f"{row['worker']} has CUDA_DEVICE_ORDER={row['order']!r}, not 'PCI_BUS_ID'")
    return problems


CHECKS = (
    Check(
        "pinning.environment",
        "CUDA_VISIBLE_DEVICES of each worker names what was planned for it: by UUID, by index, and MIG slices.",
        environment,
    ),
    Check("pinning.uuid", "CUDA shows each worker the GPUs planned for it, in order, when named by UUID.", by_uuid),
    Check("pinning.index", "The same when they are named by index.", by_index),
    Check("pinning.mig", "CUDA shows each worker the MIG slice planned for it.", in_mig),
    Check("pinning.two_on_one", "Two workers compute on one GPU at the same time.", two_on_one),
)
