"""What the node of a run has room for: which workers the plan would place there, if stages asked for something else.

It asks the planner itself, with what the report says about CPUs and devices. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gpuexec.errors import ConfigurationError
from gpuexec.hardware.model import ComputeMode, Device, Host, Node
from gpuexec.planning.ledger import Ledger, Slot
from gpuexec.planning.model import StageDemand
from gpuexec.planning.placement import place_minimum, place_stages
from gpuexec.planning.planner import cut_into_phases
from gpuexec.planning.request import WHOLE_GPU, Request, request_of
from gpuexec.records import Record
from gpuexec.report.bounds import Data, number, row, rows

_MOST_CPUS = 4096.0  # of one node; a report that says more is damaged
_MOST_WORKERS = 4096  # of one stage
_LEAST_GPU_GB = 0.01

Demands = Mapping[int, StageDemand]
Placed = Sequence[Mapping[int, int]]


class Room(Record):
    """CPUs and devices that a run could plan with. ``usable_cpus``: ``None`` if the report does not say.

    ``ledger``: the devices before the first worker; ``None`` if the report does not list them.
    """

    usable_cpus: float | None
    ledger: Ledger | None

    def placed(self, demands: Demands) -> Placed | None:
        """Return the workers of the starting plan by stage index, one mapping for each phase.

        ``demands``: of the stages that have workers of their own, by index. ``None`` if the node cannot do what they
        ask for, or the report does not tell enough about it.
        """
        if self.usable_cpus is None or not all(map(_is_plausible, demands.values())):
            return None
        try:
            requests = [request_of(index, demands[index]) for index in sorted(demands)]
        except ConfigurationError:
            return None
        if any(request.demand.cpus > self.usable_cpus for request in requests):
            return None
        ledger = self.ledger
        if ledger is None:
            if any(request.uses_gpu for request in requests):
                return None
            ledger = Ledger([])
        return _placed(requests, ledger, self.usable_cpus)


def room_of(report: Data) -> Room:
    """Return the room that a run had."""
    node, options = row(report.get("node")), row(report.get("options"))
    cpus = number(node.get("usable_cpus"))
    if not cpus:  # a report of an older version
        cpus = number(options.get("cpus") or node.get("cpus")) - number(options.get("reserved_cpus"))
    devices = node.get("devices")
    slots = [_slot(found) for found in rows(devices)]
    return Room(
        usable_cpus=cpus if 0 < cpus <= _MOST_CPUS else None,
        ledger=Ledger(slots) if isinstance(devices, (list, tuple)) else None,
    )


def demands_of(stages: Sequence[Data]) -> dict[int, StageDemand]:
    """Return what the stages of a report asked for, those with workers of their own, by index."""
    return {
        position: StageDemand(
            name=str(stage.get("name")),
            cpus=number(stage.get("cpus")),
            gpus=number(stage.get("gpus")),
            gpu_memory_gb=number(stage.get("gpu_memory_gb")) if not number(stage.get("gpus")) else 0.0,
            num_workers=None if stage.get("num_workers") is None else int(number(stage.get("num_workers"))),
        )
        for position, stage in enumerate(stages)
        if stage.get("lead_index", position) == position
    }


def _slot(found: Data) -> Slot:
    total = int(number(found.get("memory_bytes"))) or None
    left = found.get("memory_left_bytes")
    device = Device(
        index=int(number(found.get("index"))),
        uuid=str(found.get("uuid")),
        name="",
        memory_total_bytes=total,
        memory_free_bytes=None,
        compute_mode=ComputeMode.EXCLUSIVE_PROCESS if found.get("single_worker") else None,
        is_mig=bool(found.get("is_mig")),
    )
    capacity = (total or 1) * WHOLE_GPU
    free = math.floor(capacity * min(1.0, max(0.0, number(found.get("free_share")))))
    return Slot(device, capacity, free, None if left is None else int(number(left)))


def _is_plausible(demand: StageDemand) -> bool:
    """Return whether a plan can be made of it in reasonable time: a damaged report may say anything."""
    small = 0 < demand.gpu_memory_gb < _LEAST_GPU_GB
    return not small and (demand.num_workers is None or 0 < demand.num_workers <= _MOST_WORKERS)


def _placed(requests: Sequence[Request], ledger: Ledger, usable_cpus: float) -> Placed | None:
    node = Node(Host("", (), None, None, None))  # the links decide which devices, not how many
    if any(place_minimum([request], ledger, node) is None for request in requests):
        return None
    return [
        {found.request.stage_index: len(found.workers) for found in place_stages(phase, ledger, node, usable_cpus)}
        for phase in cut_into_phases(requests, ledger, node)
    ]
