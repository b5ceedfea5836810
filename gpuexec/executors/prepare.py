"""From a pipeline and options to a plan on this node, before anything starts."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import Any, NamedTuple

from gpuexec.config import ExecutorConfig
from gpuexec.curator import stage_facts
from gpuexec.driver.spill_folder import SpillFolder, choose_folder
from gpuexec.errors import GpusBusy, ResourcesError
from gpuexec.executors.grouping import groups_of, separate
from gpuexec.executors.mps import MpsUse, mps_use
from gpuexec.executors.neighbours import Neighbours
from gpuexec.executors.requirements import check_requirements
from gpuexec.executors.stage_options import check_stage_options, notes_on_specs
from gpuexec.hardware import host, mps, visible_devices
from gpuexec.hardware.leases import HeldLeases, with_leases
from gpuexec.hardware.model import Device, Lease, Node
from gpuexec.hardware.nvml_errors import with_remedy
from gpuexec.hardware.visible_devices import VARIABLE, VisibleDevices
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.fusion import Group
from gpuexec.planning.model import Plan, PlanOptions, StageDemand, WorkerGrant
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.planning.request import request_of
from gpuexec.planning.shares import amounts_of, amounts_of_plan
from gpuexec.policies import BusyGpuPolicy, FusionPolicy, GpuPinning, MpsPolicy
from gpuexec.records import Record

_NEEDED_READINGS = ("handle", "uuid", "memory_total_bytes", "mig_enabled", "compute_mode")
_BUSY_POLL_S = 2.0  # NVML has no event for freed memory


class Prepared(Record):
    """A checked pipeline and its plan. ``allocator`` makes the grants of later plans of the same run.

    ``groups``: which stages are fused, every stage in one group.
    ``leases``: what tells other runs on this machine; the run closes them. ``spill_folder``: see `with_spill_folder`.
    ``mps``: the use that the run makes of MPS.
    """

    stages: tuple[Any, ...]
    demands: tuple[StageDemand, ...]
    node: Node
    plan: Plan
    allocator: Allocator
    groups: tuple[Group, ...]
    leases: HeldLeases = field(default_factory=HeldLeases)
    spill_folder: SpillFolder | None = None
    mps: MpsUse = MpsUse()

    def cover(self, grants: Iterable[WorkerGrant]) -> None:
        """Keep the leases as large as what these workers, all that are alive, were granted."""
        self.leases.cover(amounts_of(grants, self.allocator.requests))


def prepare(
    stages: Sequence[Any],
    options: ExecutorConfig,
    environ: Mapping[str, str] = os.environ,
    node: Node | None = None,
    *,
    takes_leases: bool = False,
    fuses: bool = False,
    has_checkpoint: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Prepared:
    """Check what the stages ask for and plan them on this node, or on ``node`` (read from a file, for example).

    ``stages``: those that `checks.check_call` has accepted.

    GPUs are read only if a stage asks for one. CUDA_VISIBLE_DEVICES in ``environ`` restricts this node's GPUs, never
    those of a ``node`` that is passed in. With ``busy_gpus="wait"``, wait until other processes free their GPUs, for
    ``busy_gpu_timeout_s`` at most; ``sleep`` may raise to end that. What other runs hold leases on is theirs; with
    ``takes_leases``, this plan's GPUs are leased too, and it waits in line for them. ``fuses``: light neighbours share
    their workers, if the options say so too; with a checkpoint, only those after the stage that makes the sources.

    Raises ``ConfigurationError`` and ``ResourcesError``.
    """
    check_stage_options(stages, options)
    check_requirements(stages, options, has_checkpoint=has_checkpoint)
    for stage in stages:
        stage_facts.batch_size_of(stage)
    demands = tuple(stage_facts.demand_of(stage) for stage in stages)
    fuses = fuses and options.fusion == FusionPolicy.AUTO
    groups = groups_of(stages, demands, options, has_checkpoint=has_checkpoint) if fuses else separate(stages)
    wanted = _Wanted(tuple(stages), demands, groups, tuple(notes_on_specs(stages)))
    if node is not None:
        return _plan(wanted, options, node, environ=None)
    if not wanted.uses_gpus:
        return _plan(wanted, options, _read_node(demands, options, environ), environ=environ)
    neighbours = Neighbours(options.lease_dir, environ, takes_leases=takes_leases)
    deadline = time.monotonic() + options.busy_gpu_timeout_s
    try:
        while True:
            try:
                return _plan_among_runs(wanted, options, _read_node(demands, options, environ), environ, neighbours)
            except GpusBusy:
                if time.monotonic() >= deadline:
                    raise
                sleep(min(_BUSY_POLL_S, max(0.0, deadline - time.monotonic())))
    finally:
        neighbours.leave_line()


def with_spill_folder(prepared: Prepared, options: ExecutorConfig) -> Prepared:
    """Choose the folder for what waits between phases, if there are several or the options name one.

    Raises ``ConfigurationError`` if it cannot be used; the leases are closed then.
    """
    if options.spill_dir is None and len(prepared.plan.phases) == 1:
        return prepared
    try:
        return dataclasses.replace(prepared, spill_folder=choose_folder(options.spill_dir))
    except BaseException:
        prepared.leases.close()
        raise


class _Wanted(NamedTuple):
    """What is to be planned. ``notes``: about the stages' specs."""

    stages: tuple[Any, ...]
    demands: tuple[StageDemand, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def uses_gpus(self) -> bool:
        """Whether a stage asks for a GPU, or a part of one."""
        return any(demand.gpus or demand.gpu_memory_gb for demand in self.demands)


def _plan_among_runs(
    wanted: _Wanted, options: ExecutorConfig, node: Node, environ: Mapping[str, str], neighbours: Neighbours
) -> Prepared:
    """Plan with what other runs on this machine leave, while none of them plans. Raises ``GpusBusy``: try again."""
    uuids = [device.uuid for device in visible_devices.select(node.gpus, environ).devices]
    with neighbours.kept_from_planning():
        if options.busy_gpus == BusyGpuPolicy.WAIT:
            neighbours.wait_for_turn(uuids)
        try:
            prepared = _plan(wanted, options, node, environ=environ, leases=neighbours.leases(uuids))
        except GpusBusy:
            neighbours.join_line(uuids)
            raise
        amounts = amounts_of_plan(prepared.plan, prepared.allocator.requests)
        return dataclasses.replace(prepared, leases=neighbours.take(amounts))


def _plan(
    wanted: _Wanted,
    options: ExecutorConfig,
    node: Node,
    *,
    environ: Mapping[str, str] | None,
    leases: Mapping[str, tuple[Lease, ...]] = MappingProxyType({}),
) -> Prepared:
    """Plan on the node as it is now; ``environ``: the variables that restrict its GPUs, if it is this one."""
    if options.cpus is not None:
        node = dataclasses.replace(node, host=dataclasses.replace(node.host, granted_cpus=options.cpus))
    demands, groups = wanted.demands, [group.stages for group in wanted.groups]
    reads_gpus = _reads_gpus(demands, options)
    visible = visible_devices.select(node.gpus, environ or {}) if reads_gpus else VisibleDevices(())
    if node.hang is not None:
        visible = _despite_hang(node.hang, node, demands, visible)
    use = _mps_use(demands, options, visible.devices, environ)
    allocator, notes = make_allocator(
        demands,
        with_leases(use.marked(visible.devices), leases),
        node,
        _plan_options(options),
        no_devices_reason=_no_devices_reason(node, environ or {}, visible),
        device_notes=(*visible.notes, *use.notes),
        groups=groups,
    )
    plan = plan_phases(allocator, (*wanted.notes, *notes), groups)
    return Prepared(wanted.stages, demands, node, plan, allocator, wanted.groups, mps=use)


def _mps_use(
    demands: Sequence[StageDemand],
    options: ExecutorConfig,
    devices: Sequence[Device],
    environ: Mapping[str, str] | None,
) -> MpsUse:
    if environ is None or not devices:
        return MpsUse()
    return mps_use(
        MpsPolicy(options.mps), GpuPinning(options.gpu_pinning), demands, devices, mps.running_daemon(environ)
    )


def _despite_hang(hang: str, node: Node, demands: Sequence[StageDemand], visible: VisibleDevices) -> VisibleDevices:
    """Return the devices with a note about the NVML call that hangs, if what a plan needs was read before it.

    Otherwise raise ``ResourcesError``: nobody who runs a pipeline wants it on the few GPUs that were read by chance.
    """
    unread = [gpu.index for gpu in node.gpus if any(gpu.unknown.get(name) == hang for name in _NEEDED_READINGS)]
    unread += [gpu.index for gpu in node.gpus if any(hang in mig.unknown.values() for mig in gpu.mig_slices)]
    asking = next((i for i, demand in enumerate(demands) if demand.gpus or demand.gpu_memory_gb), None)
    chosen = {device.index for device in visible.devices}
    if asking is None or (chosen.isdisjoint(unread) and not any(hang in note for note in visible.notes)):
        note = f"some readings of the GPUs are unknown: {with_remedy(hang)}"
        return dataclasses.replace(visible, notes=(*visible.notes, note))
    request = request_of(asking, demands[asking])
    # Those that were to be read after it may be well.
    others = [str(gpu.index) for gpu in node.gpus if not (gpu.lost or re.search(rf"\bGPU {gpu.index}\b", hang))]
    way_out = f". Until then, {VARIABLE}={','.join(others)} in a new process does without it" if others else ""
    numbers = ", ".join(map(str, dict.fromkeys(unread)))
    raise ResourcesError(
        f"stage {request.demand.name!r} asks for {request.describe()}, but GPU {numbers} cannot be read: "
        f"{with_remedy(hang)}{way_out}"
    )


def _reads_gpus(demands: Sequence[StageDemand], options: ExecutorConfig) -> bool:
    return options.cpu_stages_see_gpus or any(demand.gpus or demand.gpu_memory_gb for demand in demands)


def _read_node(demands: Sequence[StageDemand], options: ExecutorConfig, environ: Mapping[str, str]) -> Node:
    if _reads_gpus(demands, options):
        from gpuexec.hardware import inventory  # takes 10 ms, of which most is for NVML

        return inventory.read_node(first=visible_devices.numbers_in(environ))
    return Node(host=host.read_host())


def _no_devices_reason(node: Node, environ: Mapping[str, str], visible: VisibleDevices) -> str | None:
    if visible.devices:
        return None
    if VARIABLE in environ and node.gpus:
        value = environ[VARIABLE]
        notes = "; ".join(visible.notes)
        return (
            f"{VARIABLE}={value!r} selects none of the node's {len(node.gpus)} GPU(s)"
            + (f" ({notes})" if notes else "")
            + "; unset it or name a GPU as `gpuexec gpus` lists them"
        )
    return node.no_gpus_reason or "; ".join(visible.notes) or "the node has no usable GPU"


def _plan_options(options: ExecutorConfig) -> PlanOptions:
    return PlanOptions(
        reserved_cpus=options.reserved_cpus,
        reserved_gpus=options.reserved_gpus,
        busy_gpus=BusyGpuPolicy(options.busy_gpus),
        busy_memory_fraction=options.busy_gpu_memory_fraction,
        cpu_stages_see_gpus=options.cpu_stages_see_gpus,
        pinning=GpuPinning(options.gpu_pinning),
    )
