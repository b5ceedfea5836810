"""How the GPUs of a node are linked. Pure: takes readings, returns links."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from gpuexec.hardware.model import Gpu, Link, LinkKind, Node
from gpuexec.records import Record

SWITCH_BUS_ID = "FFFFFFFF:FF:FF.0"  # what NVML reports at the far end of a link into an NVSwitch

# nvmlGpuTopologyLevel_t
_ANCESTORS = {
    0: LinkKind.SAME_BOARD,
    10: LinkKind.SINGLE_SWITCH,
    20: LinkKind.MULTIPLE_SWITCHES,
    30: LinkKind.HOST_BRIDGE,
    40: LinkKind.NUMA_NODE,
    50: LinkKind.SYSTEM,
}


class PairReading(Record):
    """What NVML reports for two GPUs. ``ancestor``: nvmlGpuTopologyLevel_t; ``None``: not readable."""

    ancestor: int | None
    nvlink_p2p: bool | None


def links_between(
    bus_ids: Sequence[str | None],
    far_ends: Sequence[Sequence[str]],
    pairs: Mapping[tuple[int, int], PairReading],
) -> tuple[Link, ...]:
    """Return the link between every two GPUs. ``far_ends[i]``: bus ids at the other ends of GPU i's active NVLinks.

    A link that ends in an NVSwitch says nothing about the peer. There the peer-to-peer status decides whether the
    GPUs are linked, and the number of links is that of the GPU with fewer of them.
    """
    links = []
    for a, b in itertools.combinations(range(len(bus_ids)), 2):
        reading = pairs.get((a, b), PairReading(None, None))
        bus_id = bus_ids[b]
        direct = Counter(far_ends[a])[bus_id] if bus_id else 0
        switched = min(Counter(far_ends[i])[SWITCH_BUS_ID] for i in (a, b)) if reading.nvlink_p2p else 0
        nvlinks = direct or switched
        ancestor = LinkKind.UNKNOWN if reading.ancestor is None else _ANCESTORS.get(reading.ancestor, LinkKind.UNKNOWN)
        links.append(Link(a, b, LinkKind.NVLINK if nvlinks else ancestor, nvlinks))
    return tuple(links)


def closest_to(node: Node, gpu: Gpu) -> list[tuple[int, Link]]:
    """Return (index, link) of the GPUs closest to ``gpu``, several if equally close; [] if no link is known."""
    others = [(other.index, node.link_between(gpu.index, other.index)) for other in node.gpus if other is not gpu]
    known = [(index, link) for index, link in others if link.kind is not LinkKind.UNKNOWN]
    if not known:
        return []
    best = min(distance(link) for _, link in known)
    return [(index, link) for index, link in known if distance(link) == best]


def distance(link: Link) -> tuple[int, int]:
    """Return a sort key for links: closer kinds first, then more NVLinks."""
    return int(link.kind), -link.nvlinks
