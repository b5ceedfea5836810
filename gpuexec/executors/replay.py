"""Runs the batch of a failure capsule again, in this process.

Opening a capsule's pickles runs code that is in them. ``load_capsule`` does not open them, ``replay`` does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuexec.capsules.read import Capsule, load_capsule
from gpuexec.capsules.write import CapsuleContents
from gpuexec.channel import codec
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.curator import adapters, registration
from gpuexec.errors import CapsuleError
from gpuexec.hardware.model import Device
from gpuexec.hardware.visible_devices import ORDER_VARIABLE, VARIABLE
from gpuexec.naming import full_name
from gpuexec.processes.spawn import THREAD_CAPS
from gpuexec.stage import loading
from gpuexec.stage.node_lock import node_lock
from gpuexec.stage.pinning import check_pinning

__all__ = ["Capsule", "load_capsule", "replay"]

OnError = Callable[[BaseException], object]
_LOADING_PHASES = {"import", "start-up", "receive"}  # unpickling is what failed there


def replay(capsule: Capsule, *, gpu: int | None = None, on_error: OnError | None = None) -> list[Any]:
    """Run a capsule's batch in this process and return its tasks.

    The environment that its pipeline asked for, the thread caps, the pinning and ``sys.path`` are the failed
    worker's for as long as it runs; CUDA follows the pinning if nothing has initialised it here before.
    ``gpu``: the NVML index of the GPU to use instead. ``on_error`` is called with the stage's exception
    before ``teardown``, while everything is as the failure left it; the exception then passes through.

    Raises that exception, and ``CapsuleError`` where the batch cannot be run here.
    """
    _check_replayable(capsule)
    registration.install()
    failure = capsule.failure
    place = _on_gpu(gpu, capsule.allocation) if gpu is not None else _as_before(capsule.allocation)
    for note in (*_notes(capsule), *place.notes):
        _warn(note)
    with temporary_environment(_environment(failure, place), _search_path(capsule)):
        try:
            stage, tasks = _unpickle(failure)
        except (Exception, SystemExit) as error:
            if failure.phase not in _LOADING_PHASES:
                raise CapsuleError(_why_not_loaded(capsule, error)) from error
            if on_error is not None:
                on_error(error)
            raise
        return _run(adapters.adapter_for(stage), tasks, failure, place, on_error)


@dataclass(frozen=True, slots=True)
class ReplayTarget:
    """Where a batch runs again."""

    allocation: Allocation
    environ: Mapping[str, str]
    notes: tuple[str, ...] = ()


def _run(
    adapter: Any, tasks: list[Any], failure: CapsuleContents, place: ReplayTarget, on_error: OnError | None
) -> list[Any]:
    """What a worker does. An error of ``teardown`` never hides the batch's own."""
    worker = WorkerMetadata(worker_id=failure.worker_id, allocation=place.allocation)
    with contextlib.ExitStack() as undo:
        try:
            with node_lock(full_name(type(adapter.stage))):
                adapter.setup_on_node(NodeInfo(node_id=socket.gethostname()), worker)
            undo.callback(_quiet_teardown, adapter)
            adapter.setup(worker)
            if place.environ:
                check_pinning(place.allocation)
            outputs = list(adapter.process_batch(tasks)) if tasks else []
            if failure.phase == "return":  # pickling the outputs is what failed
                codec.encode(outputs)
            undo.pop_all()
            adapter.teardown()
        except BaseException as error:
            if on_error is not None:
                on_error(error)
            raise
    return outputs


def _quiet_teardown(adapter: Any) -> None:
    try:
        adapter.teardown()
    except Exception as error:  # noqa: BLE001 - whatever it raises, the batch's own error is the one to see
        _warn(f"teardown() raised too: {type(error).__name__}: {error}")


# ---- checks and notes ----------------------------------------------------------------------------------


def _check_replayable(capsule: Capsule) -> None:
    if capsule.missing:
        what = "; ".join(f"the {name}, {why}" for name, why in capsule.missing.items())
        raise CapsuleError(f"the capsule {capsule.path} cannot be replayed: it was written without {what}")
    payloads = (capsule.failure.stage_payload, *capsule.failure.task_payloads)
    if capsule.python_differs and any(b"cloudpickle" in bytes(payload) for payload in payloads):
        raise CapsuleError(
            f"the capsule {capsule.path} holds code of Python {capsule.python}, which Python "
            f"{platform.python_version()} cannot run: replay it with the former"
        )


def _notes(capsule: Capsule) -> Iterator[str]:
    if capsule.python_differs:
        yield f"the batch failed under Python {capsule.python}, this is {platform.python_version()}"
    if capsule.cwd not in (None, str(Path.cwd())):
        yield f"the run's working directory was {capsule.cwd}: relative paths mean something else here"
    unset = [name for name in capsule.variables_left_out if name not in os.environ]
    if unset:
        yield (
            f"left out of the capsule as they look like secrets, and not set here: {', '.join(unset)}; "
            "set them if the stage needs them"
        )


def _why_not_loaded(capsule: Capsule, error: BaseException) -> str:
    hint = "replay it in the environment of the run: the same packages, and the modules that define its classes"
    return f"the capsule {capsule.path} cannot be unpickled here ({type(error).__name__}: {error}); {hint}"


def _warn(note: str) -> None:
    from loguru import logger

    logger.warning("replay: {}", note)


# ---- surroundings --------------------------------------------------------------------------------------


def _as_before(then: Allocation) -> ReplayTarget:
    wanted = [entry for entry in then.cuda_visible_devices.split(",") if entry]
    pinned = {VARIABLE: then.cuda_visible_devices, ORDER_VARIABLE: "PCI_BUS_ID"}
    if not wanted:
        return ReplayTarget(then, pinned)
    from gpuexec.hardware import inventory, visible_devices

    node = inventory.read_node()
    here = {device.uuid for device in visible_devices.select(node.gpus, os.environ).devices}
    absent = [uuid for uuid in wanted if uuid not in here]
    if not absent:
        return ReplayTarget(then, pinned)
    reason = node.no_gpus_reason or "`gpuexec gpus` lists them"
    note = f"the worker's {', '.join(absent)} cannot be seen here ({reason}): {VARIABLE} stays; --gpu N chooses a GPU"
    return ReplayTarget(then, {}, (note,))


def _on_gpu(index: int, then: Allocation) -> ReplayTarget:
    from gpuexec.hardware import inventory
    from gpuexec.hardware.visible_devices import devices_of

    node = inventory.read_node()
    devices = [device for gpu in node.gpus for device in devices_of(gpu) if device.index == index]
    if not devices:
        usable = ", ".join(str(gpu.index) for gpu in node.gpus if devices_of(gpu))
        why = f"usable: {usable}" if usable else node.no_gpus_reason or "none can be used"
        raise CapsuleError(f"there is no GPU {index} to replay on: {why}")
    device = devices[0]
    notes = []
    if device.is_mig and len(devices) > 1:
        notes.append(f"GPU {index} is in MIG mode: its first slice is used, as CUDA would")
    if len(then.gpus) > 1:
        notes.append(f"the worker had {len(then.gpus)} GPUs, the replay has one")
    allocation = Allocation(gpus=(_whole(device),), cpus=then.cpus, cuda_visible_devices=device.uuid)
    return ReplayTarget(allocation, {VARIABLE: device.uuid, ORDER_VARIABLE: "PCI_BUS_ID"}, tuple(notes))


def _whole(device: Device) -> GpuShare:
    return GpuShare(device.index, device.uuid, device.name, 1.0, device.memory_total_bytes)


def _environment(failure: CapsuleContents, place: ReplayTarget) -> dict[str, str]:
    """What the pipeline asked for and the thread caps; the pinning is the place's alone, as in a worker."""
    caps = {name: failure.environ[name] for name in THREAD_CAPS if name in failure.environ}
    asked = {name: value for name, value in failure.env_vars.items() if name not in (VARIABLE, ORDER_VARIABLE)}
    return {**caps, **asked, **place.environ}


def _search_path(capsule: Capsule) -> list[str]:
    """The run's path first; another Python's libraries last, so that they never stand in for ours."""
    theirs, ours = list(capsule.failure.sys_path), list(sys.path)
    first, second = (ours, theirs) if capsule.python_differs else (theirs, ours)
    return [*first, *(place for place in second if place not in first)]


@contextlib.contextmanager
def temporary_environment(environ: Mapping[str, str], path: Sequence[str]) -> Iterator[None]:
    before, path_before = {name: os.environ.get(name) for name in environ}, list(sys.path)
    os.environ.update(environ)
    sys.path[:] = path
    try:
        yield
    finally:
        sys.path[:] = path_before
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _unpickle(failure: CapsuleContents) -> tuple[Any, list[Any]]:
    loading.in_progress = True  # a module that is imported for the stage must not start its own run
    try:
        stage = codec.decode(failure.stage_payload, in_place=False)
    finally:
        loading.in_progress = False
    tasks: list[Any] = []
    slices = failure.task_slices or [None] * len(failure.task_payloads)
    for payload, wanted in zip(failure.task_payloads, slices, strict=True):
        found = codec.decode(payload, in_place=False)
        bundle = found if isinstance(found, list) else [found]
        tasks += bundle[slice(*wanted)] if wanted else bundle
    return stage, tasks
