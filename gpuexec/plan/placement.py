"""Which devices a worker gets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from gpuexec.hardware.model import Node
from gpuexec.hardware.topology import distance
from gpuexec.plan.ledger import Ledger
from gpuexec.plan.request import Request

_EXHAUSTIVE = 5000  # sets of GPUs to compare; beyond, they are grown greedily (16 GPUs choose 8: 12,870)


def place(request: Request, ledger: Ledger, node: Node) -> tuple[int, ...] | None:
    """Return the slots for one worker, () for a CPU worker, ``None`` if there is no room.

    One device: the fullest that still fits, so that whole devices stay free for those who need them. Several:
    the set whose members are closest to each other (NVLink, then PCIe switch, then NUMA node); never MIG
    slices, since CUDA shows a process only one.
    """
    if not request.uses_gpu:
        return ()
    if request.count > 1:
        free = [i for i, s in enumerate(ledger.slots) if s.fits(request) and not s.device.is_mig]
        return _closest(free, request.count, ledger, node)
    fitting = [i for i, slot in enumerate(ledger.slots) if slot.fits(request)]
    if not fitting:
        return None
    return (min(fitting, key=lambda i: (ledger.slots[i].workers == 0, ledger.slots[i].free, i)),)


def by_difficulty(requests: Sequence[Request]) -> list[Request]:
    """Order requests so that the ones with the fewest places come first."""
    return sorted(requests, key=lambda r: (-r.count, -r.memory, -r.share, r.stage))


def _closest(free: list[int], count: int, ledger: Ledger, node: Node) -> tuple[int, ...] | None:
    if len(free) < count:
        return None
    gpu = [slot.device.index for slot in ledger.slots]
    numa = [slot.device.numa_node for slot in ledger.slots]
    apart = {
        (a, b): (*distance(node.link_between(gpu[a], gpu[b])), numa[a] != numa[b])
        for a, b in itertools.permutations(free, 2)
    }

    def spread(chosen: Sequence[int]) -> tuple[int, ...]:
        """Sums over all pairs: kind of link, NVLinks, NUMA nodes crossed (GPUs on one NVSwitch are equally close)."""
        return tuple(map(sum, zip(*(apart[pair] for pair in itertools.combinations(chosen, 2)), strict=True)))

    if math.comb(len(free), count) <= _EXHAUSTIVE:
        return min(itertools.combinations(free, count), key=spread)
    grown = []
    for seed in free:
        chosen = [seed]
        while len(chosen) < count:
            rest = [i for i in free if i not in chosen]
            chosen.append(min(rest, key=lambda i: (sum(apart[i, j][0] for j in chosen), i)))
        grown.append(tuple(sorted(chosen)))
    return min(grown, key=spread)
