"""GPUs that fail under a run, and what its figures were taken on. The driver library is simulated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gpuexec import GpusLost, LocalExecutor, Pipeline
from tests.nvml_sim import nodes
from tests.nvml_sim.simulator import VARIABLE, SimulatedNode
from tests.process.stages import Item, items
from tests.process.test_gpus import OnGpu


class Breaks(OnGpu):
    """Makes its GPU fail at its first task, and never returns from it."""

    def __init__(self, flag: Path, victim: int, workers: int = 1, **edit) -> None:
        super().__init__(workers, gpus=1)
        self.flag, self.victim, self.edit = flag, victim, edit

    def process(self, task: Item) -> Item:
        gpu = self.metadata.allocation.device_ids[0]
        if gpu == self.victim and not self.flag.exists():
            self.flag.touch()
            path = Path(os.environ[VARIABLE])
            node = SimulatedNode(path, json.loads(path.read_text()))
            node.change(lambda d: d["gpus"][gpu].update(self.edit))
            while True:  # as a kernel on a dead GPU does
                os.sched_yield()
        while not self.flag.exists():
            os.sched_yield()
        task.data = (task.data, gpu)
        return task


def run(stage, count=6):
    executor = LocalExecutor(show_progress=False)
    out = Pipeline("p", stages=[stage]).run(executor, initial_tasks=items(*range(count)))
    return [task.data for task in out], executor.last_report


@pytest.mark.parametrize("edit", [{"xids": [79]}, {"lost": True}])
def test_batches_of_a_gpu_that_fails_go_elsewhere(nvml_node, tmp_path, edit):
    nvml_node(nodes.node(nodes.gpu(0), nodes.gpu(1)))
    found, report = run(Breaks(tmp_path / "flag", 1, workers=2, **edit))
    assert [number for number, _ in found] == list(range(6)), "nothing lost, nothing doubled"
    assert (tmp_path / "flag").exists()
    assert {gpu for _, gpu in found} == {0}
    assert any("cordoned" in note for note in report.notes)
    assert not report.failures, "the stage was not at fault"


def test_a_stage_without_a_gpu_left_ends_the_run(nvml_node, tmp_path):
    nvml_node(nodes.node(nodes.gpu(0)))
    with pytest.raises(GpusLost, match=r"stage 'on_gpu' has no GPU left to run on: .*79"):
        run(Breaks(tmp_path / "flag", 0, xids=[79]))


def test_an_applications_own_fault_does_not_condemn_its_gpu(nvml_node, tmp_path):
    node = nvml_node(nodes.node(nodes.gpu(0)))
    node.change(lambda d: d["gpus"][0].update(xids=[13]))
    found, report = run(OnGpu(gpus=1))
    assert len(found) == 6
    assert not any("cordoned" in note for note in report.notes)


def test_the_report_says_what_the_run_ran_on(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0)))
    _, report = run(OnGpu(gpus=0.5))
    before, after = report.gpus_before, report.gpus_after
    assert before.driver_version == after.driver_version == "580.95.05"
    assert [gpu.uuid for gpu in before.gpus] == [nodes.uuid(0)]


def test_a_contaminated_run_says_so(nvml_node):
    other = {"pid": 1, "used_bytes": 3 * nodes.GIB}
    nvml_node(nodes.node(nodes.gpu(0, processes=[other], memory_used_bytes=3 * nodes.GIB)))
    _, report = run(OnGpu(gpus=0.5))
    assert any("another process" in note and "3.0 GiB" in note for note in report.notes), report.notes
