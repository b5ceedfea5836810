"""GPUs that fail during a run, and what the report says of the GPUs it ran on. The driver library is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuexec import GpusLost
from tests.nvml_sim import nodes
from tests.process.running import run_local
from tests.process.stages import items
from tests.process.stages.gpus import Breaks, OnGpu


@pytest.mark.parametrize("edit", [{"xids": [79]}, {"lost": True}])
def test_batches_of_a_gpu_that_fails_go_elsewhere(nvml_node, tmp_path: Path, edit: dict[str, Any]):
    nvml_node(nodes.node(nodes.gpu(0), nodes.gpu(1)))
    ran = run_local([Breaks(tmp_path / "flag", 1, workers=2, **edit)], items(*range(6)))
    assert [number for number, _ in ran.data] == list(range(6)), "nothing lost, nothing doubled"
    assert (tmp_path / "flag").exists()
    assert {gpu for _, gpu in ran.data} == {0}
    assert any("cordoned" in note for note in ran.report.notes)
    assert not ran.report.failures, "the stage was not at fault"


def test_a_stage_without_a_gpu_left_ends_the_run(nvml_node, tmp_path: Path):
    nvml_node(nodes.node(nodes.gpu(0)))
    with pytest.raises(GpusLost, match=r"stage 'on_gpu' has no GPU left to run on: .*79"):
        run_local([Breaks(tmp_path / "flag", 0, xids=[79])], items(*range(6)))


def test_an_applications_own_fault_does_not_cordon_its_gpu(nvml_node):
    node = nvml_node(nodes.node(nodes.gpu(0)))
    node.change(lambda d: d["gpus"][0].update(xids=[13]))
    ran = run_local([OnGpu(gpus=1)], items(*range(6)))
    assert len(ran.tasks) == 6
    assert not any("cordoned" in note for note in ran.report.notes)


def test_the_report_says_what_the_run_ran_on(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0)))
    report = run_local([OnGpu(gpus=0.5)], items(*range(6))).report
    before, after = report.gpus_before, report.gpus_after
    assert before.driver_version == after.driver_version == "580.95.05"
    assert [gpu.uuid for gpu in before.gpus] == [nodes.uuid(0)]


def test_a_contaminated_run_says_so(nvml_node):
    other = {"pid": 1, "used_bytes": 3 * nodes.GIB}
    nvml_node(nodes.node(nodes.gpu(0, processes=[other], memory_used_bytes=3 * nodes.GIB)))
    report = run_local([OnGpu(gpus=0.5)], items(*range(6))).report
    assert any("another process" in note and "3.0 GiB" in note for note in report.notes), report.notes
