"""Runs the batch of a failure capsule again, in this process.

Unpickling a capsule's payloads runs code that is in them. ``load_capsule`` does not unpickle them, ``replay`` does.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuexec.capsules.read import Capsule, load_capsule
from gpuexec.capsules.write import CapsuleContents
from gpuexec.channel import codec
from gpuexec.contract.adapter import StageAdapter
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.curator import adapters, registration
from gpuexec.errors import CapsuleError
from gpuexec.executors.script_code import renew
from gpuexec.executors.without_ray import ray_not_started
from gpuexec.hardware import nvml_errors
from gpuexec.hardware.model import Device, Node
from gpuexec.hardware.visible_devices import ORDER_VARIABLE, VARIABLE, select, visible_value
from gpuexec.policies import GpuPinning
from gpuexec.processes.gpu_limits import GPU_MEMORY_LIMITS
from gpuexec.processes.variables import HASH_SEED, THREAD_CAPS
from gpuexec.stage.environment import temporary_environment
from gpuexec.stage.loading import loading_stage
from gpuexec.stage.pools import support_pools
from gpuexec.stage.seeds import random_states_kept, seeded
from gpuexec.stage.session import StageSession

__all__ = ["Capsule", "load_capsule", "replay"]

OnError = Callable[[BaseException], object]
_UNPICKLING_PHASES = {StagePhase.START_UP, StagePhase.IMPORT, StagePhase.RECEIVE}


def replay(
    capsule: Capsule | str | os.PathLike[str],
    *,
    gpu: int | None = None,
    on_error: OnError | None = None,
    old_code: bool = False,
) -> list[Any]:
    """Run a capsule's batch in this process and return its tasks. That runs code in the capsule: trust who wrote it.

    ``capsule``: what ``load_capsule`` returned, or the folder.

    While it runs, this process has the failed worker's ``sys.path``, thread caps, GPU pinning, and the environment
    variables that its pipeline asked for. CUDA follows the pinning only if nothing has initialised CUDA here before.

    ``gpu``: the NVML index of the GPU to use instead of the worker's. ``on_error`` is called with the stage's exception
    before ``teardown``, while everything is as the failure left it. ``old_code``: run the code of a script as it was in
    the run; otherwise it is that of the script now, if the file is still there.

    Raises the stage's exception, and ``CapsuleError`` if the folder is no capsule or the batch cannot be run here.
    """
    if not isinstance(capsule, Capsule):
        capsule = load_capsule(capsule)
    _check_replayable(capsule)
    registration.install()
    failure = capsule.failure
    target = _chosen_gpu(gpu, capsule.allocation) if gpu is not None else _same_gpus(capsule.allocation)
    for note in (*_notes(capsule), *target.notes):
        _warn(note)
    with temporary_environment(_environment(failure, target), _search_path(capsule)), ray_not_started():
        try:
            stages, tasks = _unpickle(failure)
        except (Exception, SystemExit) as error:
            if failure.phase not in _UNPICKLING_PHASES:
                raise CapsuleError(_why_not_loaded(capsule, error)) from error
            if on_error is not None:
                on_error(error)
            raise
        support_pools()
        for stage in stages:
            code = None if old_code else renew(stage, tasks, failure.script)
            if code is not None:
                _warn(code)
        *earlier, failed = (seeded(adapters.adapter_for(stage), failure.task_seed) for stage in stages)
        with random_states_kept(failure.task_seed):
            for adapter in earlier:
                tasks = _run(adapter, tasks, failure, target, on_error, one_by_one=True)
            returns = failure.phase == StagePhase.RETURN
            return _run(failed, tasks, failure, target, on_error, one_by_one=bool(earlier), returns=returns)


def hash_seed(capsule: Capsule) -> str | None:
    """Return the value of ``PYTHONHASHSEED`` that the worker had; ``None`` if it had none, or a new one each start."""
    seed = capsule.failure.environ.get(HASH_SEED)
    return seed if seed and seed.isdecimal() else None


@dataclass(frozen=True, slots=True)
class ReplayTarget:
    """Where a batch runs again. ``environ``: the variables that pin it; empty if it cannot be pinned."""

    allocation: Allocation
    environ: Mapping[str, str]
    notes: tuple[str, ...] = ()


def _run(
    adapter: StageAdapter,
    tasks: list[Any],
    failure: CapsuleContents,
    target: ReplayTarget,
    on_error: OnError | None,
    *,
    one_by_one: bool,
    returns: bool = False,
) -> list[Any]:
    """Do what the worker did with one stage. A group of fused stages takes its tasks one by one.

    ``returns``: pickle the outputs too, which nobody does between the stages of a group.
    """
    node = NodeInfo(node_id=socket.gethostname())
    worker = WorkerMetadata(worker_id=failure.worker_id, allocation=target.allocation)
    with StageSession(adapter, node, worker, checks_pinning=bool(target.environ)) as session:
        try:
            session.set_up_on_node()
            session.set_up()
            batches = [[task] for task in tasks] if one_by_one else [tasks] if tasks else []
            outputs = [output for batch in batches for output in session.process(batch)]
            if returns:  # pickling the outputs failed
                session.phase = StagePhase.RETURN
                codec.encode(outputs)
            session.tear_down()
        except BaseException as error:
            if on_error is not None:
                on_error(error)
            raise
    return outputs


# ---- checks and notes ----------------------------------------------------------------------------------


def _check_replayable(capsule: Capsule) -> None:
    if capsule.missing:
        what = "; ".join(f"the {name}, {why}" for name, why in capsule.missing.items())
        raise CapsuleError(f"the capsule {capsule.path} cannot be replayed: it was written without {what}")
    payloads = (*capsule.failure.earlier_payloads, capsule.failure.stage_payload, *capsule.failure.task_payloads)
    if capsule.python_differs and any(b"cloudpickle" in bytes(payload) for payload in payloads):
        raise CapsuleError(
            f"the capsule {capsule.path} holds code of Python {capsule.python}, which Python "
            f"{platform.python_version()} cannot run: replay it with Python {capsule.python}"
        )


def _notes(capsule: Capsule) -> Iterator[str]:
    if capsule.python_differs:
        yield f"the batch failed under Python {capsule.python}, this is {platform.python_version()}"
    seed = hash_seed(capsule)
    if seed is not None and seed != os.environ.get(HASH_SEED):
        yield (
            f"the run's {HASH_SEED} was {seed}, so hash() of a text and the order of a set are not as they were: set "
            "it before Python starts"
        )
    if capsule.cwd not in (None, str(Path.cwd())):
        yield f"the run's working directory was {capsule.cwd}: relative paths mean something else here"
    unset = [name for name in capsule.variables_left_out if name not in os.environ]
    if unset:
        yield (
            f"the capsule leaves out variables that look like secrets; of those, not set here: {', '.join(unset)}; "
            "set them if the stage needs them"
        )


def _why_not_loaded(capsule: Capsule, error: BaseException) -> str:
    hint = "replay it in the environment of the run, with the same packages and the modules that define its classes"
    return f"the capsule {capsule.path} cannot be unpickled here ({type(error).__name__}: {error}); {hint}"


def _warn(note: str) -> None:
    from loguru import logger

    logger.warning("replay: {}", note)


# ---- environment ---------------------------------------------------------------------------------------


def _same_gpus(allocation: Allocation) -> ReplayTarget:
    """Return the target with the GPUs that the worker had, unpinned if one of them is not here."""
    entries = [entry for entry in allocation.cuda_visible_devices.split(",") if entry]
    pinning = {VARIABLE: allocation.cuda_visible_devices, ORDER_VARIABLE: "PCI_BUS_ID"}
    if not entries:
        return ReplayTarget(allocation, pinning)
    from gpuexec.hardware import inventory

    by_index = all(entry.isdigit() for entry in entries)
    wanted = [share.uuid for share in allocation.gpus] if allocation.gpus or by_index else entries
    node = inventory.read_node()
    visible = {device.uuid: device for device in select(node.gpus, os.environ).devices}
    absent = [uuid for uuid in wanted if uuid not in visible]
    if not absent and by_index and wanted:  # a GPU may have another number by now
        devices = [visible[uuid] for uuid in wanted]
        pinning[VARIABLE] = visible_value(devices, GpuPinning.INDEX)
        shares = zip(allocation.gpus, devices, strict=True)
        gpus = tuple(dataclasses.replace(share, index=device.index) for share, device in shares)
        allocation = dataclasses.replace(allocation, gpus=gpus, cuda_visible_devices=pinning[VARIABLE])
    if not absent:
        return ReplayTarget(allocation, pinning)
    reason = _why_no_gpus(node) or "`gpuexec gpus` lists the GPUs"
    note = (
        f"the worker's {', '.join(absent)} cannot be seen here ({reason}), so {VARIABLE} stays as it is; "
        "--gpu N chooses a GPU"
    )
    return ReplayTarget(allocation, {}, (note,))


def _chosen_gpu(index: int, allocation: Allocation) -> ReplayTarget:
    """Return the target with one whole GPU. Raises ``CapsuleError`` if it is not here."""
    from gpuexec.hardware import inventory
    from gpuexec.hardware.visible_devices import devices_of

    node = inventory.read_node()
    devices = [device for gpu in node.gpus for device in devices_of(gpu) if device.index == index]
    if not devices:
        usable = ", ".join(str(gpu.index) for gpu in node.gpus if devices_of(gpu))
        reason = f"usable: {usable}" if usable else "none can be used"
        reason = _why_no_gpus(node) or reason
        raise CapsuleError(f"there is no GPU {index} to replay on: {reason}")
    device = devices[0]
    notes = []
    if device.is_mig and len(devices) > 1:
        notes.append(f"GPU {index} is in MIG mode: its first slice is used, as CUDA would do")
    if len(allocation.gpus) > 1:
        notes.append(f"the worker had {len(allocation.gpus)} GPUs, the replay has one")
    return ReplayTarget(
        Allocation(gpus=(_whole(device),), cpus=allocation.cpus, cuda_visible_devices=device.uuid),
        {VARIABLE: device.uuid, ORDER_VARIABLE: "PCI_BUS_ID"},
        tuple(notes),
    )


def _why_no_gpus(node: Node) -> str | None:
    """Return why GPUs cannot be read here, ``None`` if they can."""
    return node.no_gpus_reason or (None if node.hang is None else nvml_errors.with_remedy(node.hang))


def _whole(device: Device) -> GpuShare:
    total = device.memory_total_bytes
    return GpuShare(device.index, device.uuid, device.name, 1.0, total, total)


def _environment(failure: CapsuleContents, target: ReplayTarget) -> dict[str, str]:
    """Return the worker's limits and the variables that the pipeline asked for; the pinning is ours, as in a worker."""
    limits = (*THREAD_CAPS, *GPU_MEMORY_LIMITS)
    caps = {name: failure.environ[name] for name in limits if name in failure.environ}
    requested = {name: value for name, value in failure.env_vars.items() if name not in (VARIABLE, ORDER_VARIABLE)}
    return {**caps, **requested, **target.environ}


def _search_path(capsule: Capsule) -> list[str]:
    """Return the run's ``sys.path``, then ours; the other way round if the run's libraries are of another Python."""
    theirs, ours = list(capsule.failure.sys_path), list(sys.path)
    first, second = (ours, theirs) if capsule.python_differs else (theirs, ours)
    return [*first, *(entry for entry in second if entry not in first)]


def _unpickle(failure: CapsuleContents) -> tuple[list[Any], list[Any]]:
    """Return the stages, the one that failed last, and the tasks of the batch."""
    with loading_stage():
        payloads = (*failure.earlier_payloads, failure.stage_payload)
        stages = [codec.decode(payload, in_place=False) for payload in payloads]
    tasks: list[Any] = []
    slices = failure.task_slices or [None] * len(failure.task_payloads)
    for payload, slice_ in zip(failure.task_payloads, slices, strict=True):
        decoded = codec.decode(payload, in_place=False)
        block = decoded if isinstance(decoded, list) else [decoded]
        tasks += block[slice(*slice_)] if slice_ else block
    return stages, tasks
