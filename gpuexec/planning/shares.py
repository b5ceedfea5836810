"""How much of each device workers hold, as other runs on the machine are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpuexec.hardware.model import LeaseAmount
from gpuexec.planning.model import Plan, WorkerGrant
from gpuexec.planning.request import WHOLE_GPU, Request


def amounts_of(grants: Iterable[WorkerGrant], requests: Sequence[Request]) -> dict[str, LeaseAmount]:
    """Return what these workers hold together, by UUID of the device."""
    amounts: dict[str, LeaseAmount] = {}
    by_stage = {request.stage_index: request for request in requests}
    for grant in grants:
        request = by_stage[grant.stage_index]
        thousandths = WHOLE_GPU if request.count else request.share
        for share in grant.allocation.gpus:
            held = amounts.get(share.uuid, LeaseAmount())
            amounts[share.uuid] = LeaseAmount(held.thousandths + thousandths, held.memory_bytes + request.memory)
    return amounts


def amounts_of_plan(plan: Plan, requests: Sequence[Request]) -> Mapping[str, LeaseAmount]:
    """Return what covers every phase of a plan."""
    amounts: dict[str, LeaseAmount] = {}
    for phase in plan.phases:
        grants = [grant for stage in phase.stages for grant in stage.workers]
        for uuid, amount in amounts_of(grants, requests).items():
            amounts[uuid] = amount.joined(amounts.get(uuid, LeaseAmount()))
    return amounts
