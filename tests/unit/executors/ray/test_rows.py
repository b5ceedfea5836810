"""Keys order the tasks of a cluster as one process would make them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel import codec
from gpuexec.executors.ray.rows import output_keys, rows_of, table_of, task_of
from tests.process.stages import items

keys = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), unique=True, max_size=9)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_outputs_of_a_batch_follow_their_inputs(counts: list[int]):
    inputs = [((position,), f"0_{position}") for position in range(len(counts))]
    ids = [f"0_{position}_{i}" for position, count in enumerate(counts) for i in range(count)]
    made = output_keys(inputs, ids)
    assert made == sorted(set(made))
    assert made == [(position, i) for position, count in enumerate(counts) for i in range(count)]


def test_outputs_without_a_parent_follow_the_first_input_and_are_unique():
    made = output_keys([((4,), "0_4"), ((5,), "0_5")], ["rab", "rcd", "ref"])
    assert made == [(4, 0), (4, 1), (4, 2)]


@given(keys)
def test_rows_survive_a_table(given_keys: list[tuple[int, ...]]):
    rows = [(key, codec.encode(task).join()) for key, task in zip(given_keys, items(*given_keys), strict=True)]
    back = rows_of(table_of(rows).slice(0, len(rows)))
    assert [(key, task_of(payload).data) for key, payload in back] == [(key, key) for key in given_keys]
