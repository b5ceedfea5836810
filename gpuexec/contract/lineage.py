"""Which input each output of a batch came from, as task ids tell it."""

from __future__ import annotations

from collections.abc import Sequence


def parents_of(input_ids: Sequence[str], output_ids: Sequence[str]) -> list[int]:
    """Return, for each output, the index of its input; -1 where the id does not tell.

    A task's id is its parent's id, ``"_"`` and a segment of its own. The segment may itself contain ``"_"``, so
    the longest input id that is a prefix is taken. Random ``r…`` ids have no parent.
    """
    if len(input_ids) == 1:
        return [0] * len(output_ids)
    indices: dict[str, int] = {}
    for index, task_id in enumerate(input_ids):
        indices.setdefault(task_id, index)
    if len(indices) < len(input_ids) == len(output_ids) and _is_positional(input_ids, output_ids):
        return list(range(len(output_ids)))  # the inputs' ids are not unique
    return [_parent(indices, task_id) for task_id in output_ids]


def _is_positional(input_ids: Sequence[str], output_ids: Sequence[str]) -> bool:
    pairs = zip(input_ids, output_ids, strict=True)
    return all(output.startswith(f"{parent}_" if parent else "") for parent, output in pairs)


def _parent(indices: dict[str, int], task_id: str) -> int:
    prefix = task_id
    while prefix:
        prefix = prefix.rpartition("_")[0]
        if prefix in indices:
            return indices[prefix]
    return -1
