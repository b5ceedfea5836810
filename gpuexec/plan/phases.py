"""Cuts a pipeline into runs of stages whose GPU needs fit the node at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.hardware.model import Node
from gpuexec.plan.counts import place_minimum
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.request import Request


def cut(requests: Sequence[Request], ledger: Ledger, node: Node) -> list[list[Request]]:
    """Return the phases: as many stages as fit, then the next. Every stage must fit alone.

    Taking as many as possible each time gives the fewest phases, because every part of a set of stages
    that fits also fits.
    """
    phases: list[list[Request]] = []
    for request in requests:
        if phases and place_minimum([*phases[-1], request], ledger, node) is not None:
            phases[-1].append(request)
        else:
            phases.append([request])
    return phases
