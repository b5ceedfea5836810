"""What comes out of RayExecutor is what InlineExecutor returns: tasks, order, ids, stats, life cycle of stages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuexec import ProcessingStage, StagePerfStats
from tests.process.running import ids_and_data, run_inline
from tests.process.stages import Apply, Item, Journal, Range, double, drop, environment, items, write_into
from tests.process.stages.transforms import DropOdd, FanOut, Step
from tests.ray.running import ray_executor, run_ray

pytestmark = pytest.mark.usefixtures("cluster")


class Sets(Apply):
    """Has a set-up, so it runs in actors."""

    def setup(self, worker_metadata: Any = None) -> None:
        self.worker = worker_metadata

    def process(self, task: Item) -> Item:
        task._metadata["worker"] = (self.worker.worker_id, self.worker.allocation.device_ids)
        return super().process(task)


def test_returns_what_the_inline_executor_returns():
    def stages() -> list[ProcessingStage]:
        return [Range(200), Sets(double).with_(batch_size=7), FanOut(), DropOdd()]

    expected, ran = run_inline(stages()), run_ray(stages())
    assert ids_and_data(ran.tasks) == ids_and_data(expected)
    assert [[p.stage_name for p in t._stage_perf] for t in ran.tasks] == [
        [p.stage_name for p in t._stage_perf] for t in expected
    ]
    done = {stage.name: (stage.tasks_in, stage.tasks_out) for stage in ran.report.stages}
    assert done == {"range": (1, 200), "apply": (200, 200), "fan_out": (200, 200), "drop_odd": (200, len(expected))}
    assert all(isinstance(p, StagePerfStats) and p.process_time > 0 for t in ran.tasks for p in t._stage_perf)
    assert sum(part for stage in ran.report.stages for part in stage.time.values()) > 0


def test_a_filter_that_drops_everything_gives_an_empty_list():
    ran = run_ray([Range(20), Apply(drop), Sets(double)])
    assert ran.tasks == []
    assert (ran.report.stages[1].tasks_in, ran.report.stages[1].tasks_out) == (20, 0)


def test_initial_tasks_get_ids_below_the_root_and_arrays_are_private():
    arrays = [np.zeros(50_000, np.int64) for _ in range(3)]
    ran = run_ray([Apply(write_into)], items(*arrays))
    assert ids_and_data(ran.tasks) == [("0_0_0", 50_000), ("0_1_0", 50_000), ("0_2_0", 50_000)]
    assert not arrays[0].any()
    assert len({id(task._stage_perf[0]) for task in run_ray([Range(9), Apply(double)]).tasks}) == 1, "one a batch"


steps = st.builds(
    Step,
    st.sampled_from(["drop", "repeat", "change"]),
    st.integers(0, 3),
    st.sampled_from([1, 300_000]),
    st.integers(1, 5),
    st.none() | st.integers(1, 2),
)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=4), st.integers(1, 40), st.sampled_from([None, 1, 16]))
def test_random_pipelines_agree(stages: list[Step], count: int, per_block: int | None):
    def given_tasks() -> list[Item]:
        return items(*(np.full(1, i, np.int64) for i in range(count)))

    def visible(tasks: list[Item]) -> list[tuple[Any, ...]]:
        return [(task.task_id, task.data.tolist(), [p.stage_name for p in task._stage_perf]) for task in tasks]

    ran = run_ray(list(stages), given_tasks(), tasks_per_block=per_block)
    assert visible(ran.tasks) == visible(run_inline(list(stages), given_tasks()))


def test_life_cycle_of_a_stage_on_two_nodes(tmp_path: Path, hostname: str):
    log = tmp_path / "log"
    run_ray([Journal(log, workers=2, await_setups=2)], items(*range(8)), tasks_per_block=1)
    calls = [line.split() for line in log.read_text().splitlines()]
    counts = Counter(words[1] for words in calls)
    assert counts == {"setup_on_node": 2, "setup": 2, "process": 8, "teardown": 2}, "setup_on_node: once a node"
    assert {words[2] for words in calls if words[1] == "setup_on_node"} == {hostname}
    assert {words[2] for words in calls if words[1] == "setup"} == {"journal-0", "journal-1"}
    on_node = {words[0] for words in calls if words[1] == "setup_on_node"}
    assert not on_node & {words[0] for words in calls if words[1] == "setup"}, "in processes of their own"


def test_a_gpu_stage_gets_ray_s_gpus_and_a_cpu_stage_none():
    gpu = Sets(environment, name="gpu").with_(num_workers=2)
    gpu.resources.gpus = 1
    ran = run_ray([gpu, Apply(lambda data: {**data, "cpu": environment(0)["CUDA_VISIBLE_DEVICES"]})], items(*range(6)))
    assert {task.data["CUDA_VISIBLE_DEVICES"] for task in ran.tasks} <= {"0", "1"}
    assert {task.data["cpu"] for task in ran.tasks} == {""}
    assert {task._metadata["worker"][1] for task in ran.tasks} <= {(0,), (1,)}
    assert all(worker.gpus for worker in ran.report.workers if worker.stage_name == "gpu")


def test_tasks_come_as_they_are_finished_and_the_iterator_can_be_closed():
    executor = ray_executor(tasks_per_block=1)
    tasks = executor.execute_iter([Sets(double)], items(*range(300)))
    first = next(tasks)
    assert first.data in range(0, 600, 2)
    tasks.close()
    assert executor.last_report is not None
