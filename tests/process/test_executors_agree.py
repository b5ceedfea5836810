"""Whatever the pipeline, the bounds and the batch sizes: LocalExecutor returns what InlineExecutor returns."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuexec import InlineExecutor, LocalExecutor, Pipeline, ProcessingStage, Resources
from tests.process.stages import Item, items


class Step(ProcessingStage):
    """Repeats, drops or changes tasks, depending on their data, with payloads of some size."""

    resources = Resources(cpus=0.25)

    def __init__(self, what: str, number: int, size: int, batch_size: int, workers: int | None) -> None:
        self.name = what
        self.number = number
        self.size = size
        self.batch_size = 1 if what == "repeat" else batch_size  # a fan-out from several inputs has random ids
        self.workers = workers

    def num_workers(self) -> int | None:
        return self.workers

    def process(self, task: Item) -> Item | list[Item] | None:
        value = int(task.data[0])
        match self.name:
            case "drop":
                return None if value % (self.number + 1) == 0 else task
            case "repeat":
                return [self.item(value + i) for i in range(value % (self.number + 2))]
            case _:
                return self.item(value * 3 + 1)

    def item(self, value: int) -> Item:
        return Item("oracle", np.full(self.size, value, np.int64))


steps = st.builds(
    Step,
    st.sampled_from(["drop", "repeat", "change"]),
    st.integers(0, 3),
    st.sampled_from([1, 100, 9_000, 300_000]),  # of 8 bytes: on both sides of what travels inline
    st.integers(1, 5),
    st.none() | st.integers(1, 2),
)
bounds = st.fixed_dictionaries({"queue_tasks": st.integers(1, 50), "queue_bytes": st.sampled_from([1, 100_000, 2**28])})


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=1, max_size=4), st.integers(1, 40), bounds)
def test_the_executors_agree(stages, count, options):
    def run(executor):
        tasks = items(*(np.full(1, i, np.int64) for i in range(count)))
        out = Pipeline("p", stages=list(stages)).run(executor, initial_tasks=tasks)
        return [(task.task_id, task.data.tolist(), [p.stage_name for p in task._stage_perf]) for task in out]

    assert run(LocalExecutor(show_progress=False, **options)) == run(InlineExecutor())
