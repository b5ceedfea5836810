"""A node is killed while the run goes on: the results are complete, and nothing comes twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.running import ids_and_data, run_inline
from tests.process.stages import Apply, Item, Range, double
from tests.process.stages.transforms import FanOut
from tests.process.waiting import wait_until
from tests.ray.running import run_ray


class Slow(ProcessingStage[Item, Item]):
    """Writes down on which node it works, and waits there until the node ``lost`` has done two tasks."""

    name = "slow"
    resources = Resources(cpus=0.25)  # so that all workers, and tasks beside them, fit on the nodes that are left

    def __init__(self, folder: Path, lost: str) -> None:
        self.folder = folder
        self.lost = lost

    def setup(self, worker_metadata: Any = None) -> None:
        import ray

        self.node = ray.get_runtime_context().get_node_id()

    def process(self, task: Item) -> Item:
        with (self.folder / self.node).open("a") as out:
            out.write(f"{task.task_id}\n")
        if self.node == self.lost:
            time.sleep(0.2)
        else:
            wait_until(lambda: has_worked(self.folder / self.lost), within_s=120)
        return Item(task.dataset_name, task.data + 1)


def has_worked(log: Path) -> bool:
    return log.exists() and log.read_text().count("\n") >= 2


def test_a_node_that_is_killed_costs_time_only(cluster: Any, tmp_path: Path):
    extra = cluster.add_node(num_cpus=2, num_gpus=0)

    def stages() -> list[ProcessingStage]:
        return [Range(40), Apply(double), Slow(tmp_path, extra.node_id).with_(num_workers=4), FanOut()]

    killed = threading.Event()

    def kill_when_it_works() -> None:
        wait_until(lambda: has_worked(tmp_path / extra.node_id), within_s=120)
        cluster.remove_node(extra, allow_graceful=False)
        killed.set()

    killer = threading.Thread(target=kill_when_it_works)
    killer.start()
    ran = run_ray(stages(), max_attempts=5)
    killer.join()
    if not killed.is_set():
        cluster.remove_node(extra)
    assert killed.is_set(), "the node worked, and was killed in the middle"
    expected = run_inline([Range(40), Apply(double), Apply(_plus_one, name="slow"), FanOut()])
    assert ids_and_data(ran.tasks) == ids_and_data(expected)
    slow = next(stage for stage in ran.report.stages if stage.name == "slow")
    assert (slow.tasks_in, slow.tasks_out) == (40, 40), "a block that was run again counts once"


def _plus_one(value: int) -> int:
    return value + 1
