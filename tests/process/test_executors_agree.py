"""Whatever the pipeline, the bounds and the batch sizes: LocalExecutor returns what InlineExecutor returns."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.process.running import run_inline, run_local
from tests.process.stages import Item, items
from tests.process.stages.transforms import Step

steps = st.builds(
    Step,
    st.sampled_from(["drop", "repeat", "change"]),
    st.integers(0, 3),
    st.sampled_from([1, 100, 9_000, 300_000]),  # of 8 bytes: on both sides of what travels inline
    st.integers(1, 5),
    st.none() | st.integers(1, 2),
)
bounds = st.fixed_dictionaries({"queue_tasks": st.integers(1, 50), "queue_bytes": st.sampled_from([1, 100_000, 2**28])})


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=1, max_size=4), st.integers(1, 40), bounds)
def test_the_executors_agree(stages: list[Step], count: int, options: dict[str, int]):
    def given_tasks() -> list[Item]:
        return items(*(np.full(1, i, np.int64) for i in range(count)))

    def visible(tasks: list[Item]) -> list[tuple[Any, ...]]:
        return [(task.task_id, task.data.tolist(), [p.stage_name for p in task._stage_perf]) for task in tasks]

    ran = run_local(list(stages), given_tasks(), **options)
    assert visible(ran.tasks) == visible(run_inline(list(stages), given_tasks()))
