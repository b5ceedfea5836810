"""Worker counts that follow the measured service times. The stages wait for others, so no clock is needed to judge."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Resources
from gpuexec.plan.proposal import Reason
from tests.nvml_sim import nodes
from tests.process.stages import Item, items


class Crowd(ProcessingStage):
    """Takes some time for each task; from task ``until`` on only, it waits for so many workers of its stage."""

    batch_size = 1

    def __init__(self, name: str, seconds: float, folder: Path, *, waits_for: int = 1, until: int = 0, **resources):
        self.name = name
        self.seconds = seconds
        self.folder = folder
        self.waits_for = waits_for
        self.until = until
        self.resources = Resources(**{"cpus": 1.0, **resources})

    def setup(self, worker_metadata=None) -> None:
        (self.folder / worker_metadata.worker_id).touch()

    def process(self, task: Item) -> Item:
        time.sleep(self.seconds)
        while task.data >= self.until and len(list(self.folder.glob(f"{self.name}-*"))) < self.waits_for:
            time.sleep(0.01)
        return task


def run(stages, count: int, **options):
    executor = LocalExecutor(show_progress=False, **options)
    out = Pipeline("p", stages=stages).run(executor, initial_tasks=items(*range(count)))
    assert [task.data for task in out] == list(range(count))
    report = executor.last_report
    return report, Counter(report.stages[w.stage].name for w in report.workers)


def test_a_slow_stage_gets_the_cpus_that_are_free(tmp_path):
    stages = [Crowd("quick", 0.001, tmp_path), Crowd("slow", 0.05, tmp_path, waits_for=3, until=200)]
    report, started = run(stages, 240, cpus=4)
    assert started["slow"] >= 3
    assert [w.why for w in report.workers if w.worker_id == "slow-1"] == [Reason.SLOWEST]
    assert len({w.worker_id for w in report.workers}) == len(report.workers)
    assert all(w.exit_code == 0 for w in report.workers)


def test_a_pipeline_of_more_light_stages_than_cpus_leaves_room_for_the_heavy_one(tmp_path):
    light = [Crowd(f"light{i}", 0.0, tmp_path) for i in range(4)]
    _, started = run([*light, Crowd("heavy", 0.05, tmp_path, waits_for=2, until=100)], 120, cpus=2)
    assert started["heavy"] >= 2


def test_workers_move_when_the_work_does(tmp_path):
    """The CPUs are all taken by the first bottleneck when the second one appears."""
    first = Shifting("first", 0.04, 0.002, tmp_path)
    second = Shifting("second", 0.002, 0.04, tmp_path, waits_for=3, until=380)
    report, started = run([first, second], 400, cpus=5)
    assert started["first"] >= 3
    assert started["second"] >= 3
    assert any(note.startswith("workers end") for note in report.notes)


class Shifting(Crowd):
    """Takes another time from task 100 on."""

    def __init__(self, name: str, seconds: float, then: float, folder: Path, **fields):
        super().__init__(name, seconds, folder, **fields)
        self.then = then

    def process(self, task: Item) -> Item:
        if task.data >= 100:
            self.seconds = self.then
        return super().process(task)


def test_gpus_go_to_the_stage_that_needs_them(tmp_path, nvml_node):
    """The starting plan shares the GPUs evenly; the second stage needs more than its part."""
    nvml_node(nodes.eight_nvlink())
    stages = [
        Crowd("embed", 0.005, tmp_path, gpus=0.5, cpus=0.25),
        Crowd("caption", 0.2, tmp_path, gpus=1.0, cpus=0.25, waits_for=7, until=580),
    ]
    report, started = run(stages, 600, cpus=32)
    assert started["caption"] >= 7
    assert any(w.why in (Reason.SLOWEST, Reason.MAKES_ROOM) for w in report.workers)


@pytest.mark.parametrize("options", [{}, {"worker_max_batches": 20}])
def test_a_fixed_stage_keeps_its_number(tmp_path, options):
    stages = [Fixed("one", 0.01, tmp_path), Crowd("two", 0.001, tmp_path)]
    report, _ = run(stages, 100, cpus=6, **options)
    assert {w.worker_id for w in report.workers if w.stage == 0} == {"one-0"}


class Fixed(Crowd):
    """Insists on one worker."""

    def num_workers(self) -> int:
        return 1


def test_a_stage_whose_workers_wait_for_work_gets_no_more(tmp_path):
    """What is slow here is the caller, who hands out one task after the other."""
    executor = LocalExecutor(show_progress=False, cpus=6)
    tasks = (task for task in items(*range(60)) if time.sleep(0.02) is None)
    assert sum(1 for _ in executor.execute_iter([Crowd("s", 0.005, tmp_path)], tasks)) == 60
    assert [w.worker_id for w in executor.last_report.workers] == ["s-0"]
