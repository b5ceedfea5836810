"""Which input a batch's output came from, read from task ids."""

from __future__ import annotations

from collections.abc import Sequence


def parents_of(input_ids: Sequence[str], output_ids: Sequence[str]) -> list[int]:
    """Return each output's index into the inputs; -1 where its id does not tell.

    An id is its parent's id, ``"_"`` and a segment of its own, which may itself contain ``"_"``: so the
    longest input id that is a prefix wins. Random ``r…`` ids have no parent.
    """
    if len(input_ids) == 1:
        return [0] * len(output_ids)
    places: dict[str, int] = {}
    for place, task_id in enumerate(input_ids):
        places.setdefault(task_id, place)
    if len(places) < len(input_ids) == len(output_ids) and _is_positional(input_ids, output_ids):
        return list(range(len(output_ids)))  # inputs without ids of their own
    return [_parent(places, task_id) for task_id in output_ids]


def _is_positional(input_ids: Sequence[str], output_ids: Sequence[str]) -> bool:
    pairs = zip(input_ids, output_ids, strict=True)
    return all(output.startswith(f"{parent}_" if parent else "") for parent, output in pairs)


def _parent(places: dict[str, int], task_id: str) -> int:
    prefix = task_id
    while prefix:
        prefix = prefix.rpartition("_")[0]
        if prefix in places:
            return places[prefix]
    return -1
