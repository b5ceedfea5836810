"""Rows of a Ray Data pipeline: one pickled task each, with the key that orders it.

A key is a list of numbers: the task's position among the initial tasks, then at each stage its position among the
outputs of its input. Sorted by key, tasks are in the order in which one process would make them, whatever order Ray
finished them in. A key occurs once, so a task that came twice would be noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.channel import codec
from gpuexec.contract.lineage import parents_of

if TYPE_CHECKING:
    import pyarrow as pa

Key = tuple[int, ...]
KEY, TASK = "key", "task"


def table_of(rows: Iterable[tuple[Key, bytes]]) -> pa.Table:
    """Return rows as an Arrow table, which Ray Data moves without looking into it."""
    import pyarrow as pa

    rows = list(rows)
    keys = pa.array([list(key) for key, _ in rows], pa.list_(pa.int64()))
    tasks = pa.array([task for _, task in rows], pa.large_binary())  # a task may have more than 2 GB
    return pa.table([keys, tasks], names=[KEY, TASK])


def rows_of(table: pa.Table) -> list[tuple[Key, Any]]:
    """Return the rows of a table; each payload is a view of its memory."""
    if not table.num_rows:  # Ray Data gives an empty block no columns
        return []
    keys = table.column(KEY).to_pylist()
    payloads = [memoryview(value.as_buffer()) for value in table.column(TASK)]
    return [(tuple(key), payload) for key, payload in zip(keys, payloads, strict=True)]


def task_of(payload: Any) -> Any:
    """Return the task; it shares no memory with the payload, so a stage may write into it."""
    return codec.decode(payload, in_place=False)


def output_keys(inputs: Sequence[tuple[Key, str]], output_ids: Sequence[str]) -> list[Key]:
    """Return the keys of a batch's outputs. ``inputs``: key and id of each input.

    What cannot be traced to an input follows what can be traced to the first one.
    """
    parents = parents_of([task_id for _, task_id in inputs], output_ids)
    made: dict[int, int] = {}
    keys = []
    for parent in (max(0, parent) for parent in parents):
        position = made.get(parent, 0)
        made[parent] = position + 1
        keys.append((*inputs[parent][0], position))
    return keys
