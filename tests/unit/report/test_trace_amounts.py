"""The figures of a slice: what a stage logs stands there under its own names, in a bounded number."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.messages import BatchStats
from gpuexec.report.trace_amounts import MOST_NAMES, Amounts
from gpuexec.report.trace_levels import add_amounts, slice_line


def stats_of(metrics: dict[str, float]) -> BatchStats:
    return BatchStats(1, 2, process_s=0.5, metrics=metrics)


def args_of(amounts: dict[str, float]) -> dict[str, float]:
    """Return the figures as a reader of the trace finds them."""
    return json.loads(slice_line((1, 1), '"s"', 0.0, 10.0, amounts))["args"]


def test_what_is_logged_stands_beside_the_counts_and_the_executors_own_does_not():
    amounts = Amounts().of(stats_of({"tokens": 12.0, "tasks": 7.0, "gpuexec.input_bytes": 9.0, "bad": math.nan}), 1)
    own = {"batches": 1, "tasks": 2, "tasks_out": 1, "process_s": 0.5}
    assert args_of(amounts) == {**own, "tokens": 12, "tasks (logged)": 7}


def test_a_sum_that_is_too_large_is_unknown():
    total: dict[str, float] = {}
    for _ in range(2):
        add_amounts(total, {"x": 1e308})
    assert args_of(total) == {"x": None}


def test_the_number_of_names_is_bounded():
    amounts = Amounts()
    for number in range(2 * MOST_NAMES):
        found = amounts.of(stats_of({f"n{number}": 1.0, "n0": 2.0}), 0)
        assert (f"n{number}" in found) == (number < MOST_NAMES)
        assert found["n0"] == 2.0


@given(st.lists(st.dictionaries(st.text(max_size=200), st.floats(), max_size=4), max_size=5))
def test_any_names_and_values_make_a_slice_that_json_can_read(logged: list[dict[str, float]]):
    amounts, total = Amounts(), {}
    for metrics in logged:
        add_amounts(total, amounts.of(stats_of(metrics), 1))
    assert args_of(total).get("batches", 0) == len(logged)
