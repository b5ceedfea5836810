"""Which ids batches of documents have, as Curator's id generator registers them. Pure.

A registry maps the key of a batch, a hash of its files' names, to its first and last id. A batch without documents has
a last id below its first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

Range = tuple[int, int]


def merged(live: Mapping[str, Range], kept: Mapping[str, Range]) -> dict[str, Range]:
    """Return what is registered in either registry. Raises ``ValueError`` if an id would be given twice."""
    for key in live.keys() & kept.keys():
        if tuple(live[key]) != tuple(kept[key]):
            raise ValueError(f"batch {key} has ids {shown(live[key])} and {shown(kept[key])}")
    union = {**kept, **live}
    collision = first_collision(union)
    if collision is not None:
        one, other = collision
        raise ValueError(f"ids {shown(union[one])} of batch {one} and {shown(union[other])} of batch {other} overlap")
    return union


def first_collision(registry: Mapping[str, Range]) -> tuple[str, str] | None:
    """Return the keys of two batches that have an id in common; ``None`` if there are none."""
    ordered = sorted((first, last, key) for key, (first, last) in registry.items() if last >= first)
    for (_, last, key), (first, _, following) in itertools.pairwise(ordered):
        if first <= last:
            return key, following
    return None


def next_id(ranges: Iterable[Range], at_least: int = 0) -> int:
    """Return the first id that is above all of the ranges, and not below ``at_least``."""
    return max((at_least, *(last + 1 for _, last in ranges)))


def shown(ids: Range) -> str:
    """Return a range as messages show it."""
    first, last = ids
    return f"{first} to {last}" if last >= first else "none"
