"""Tasks, stats, resources and the executor's base: the small values of the contract."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import (
    Allocation,
    BaseExecutor,
    EmptyTask,
    FailedTask,
    GpuShare,
    NodeInfo,
    NoneTask,
    Resources,
    StagePerfStats,
    StageTimer,
    WorkerMetadata,
)
from gpuexec.contract import metrics
from gpuexec.contract.lineage import parents_of
from tests.unit.contract.stages import Upper, words


def test_task_paths():
    task = words("a", task_id="0_3_x")
    assert task.get_source_id() == "x"
    task._set_task_id("0_3", 7)
    assert task.task_id == "0_3_7"
    task._set_task_id("", 7)
    assert task.task_id == "7"
    assert repr(task) == "Words(task_id=7, dataset_name=d)"


@pytest.mark.parametrize(("marker", "task_id"), [(EmptyTask, "0"), (NoneTask, ""), (FailedTask, "")])
def test_markers_carry_nothing(marker, task_id):
    assert (marker().data, marker().num_items, marker().task_id, marker().validate()) == (None, 0, task_id, True)
    with pytest.raises(ValueError, match="carries no data"):
        marker(data=3)


numbers = st.floats(0, 1e6)


@given(numbers, numbers, numbers, numbers)
def test_stats_add_up_but_peaks_do_not(a, b, peak_a, peak_b):
    key = metrics.gpu_key(0, metrics.TORCH_PEAK)
    first = StagePerfStats("s", a, b, 1.0, 3, {"n": a, key: peak_a})
    second = StagePerfStats("s", b, a, 2.0, 4, {"n": b, key: peak_b, "only": 1.0})
    total = sum([first, second])
    assert total.process_time == a + b
    assert total.actor_idle_time == a + b
    assert total.num_items_processed == 7
    assert total.custom_metrics == {"n": a + b, key: max(peak_a, peak_b), "only": 1.0}


def test_stats_as_values():
    stats = StagePerfStats("s", 1.0, 2.0, 3.0, 4, {"x": 5.0})
    assert dict(stats.items()) == {
        "process_time": 1.0,
        "actor_idle_time": 2.0,
        "input_data_size_mb": 3.0,
        "num_items_processed": 4,
        "custom.x": 5.0,
    }
    assert stats.to_dict()["stage_name"] == "s"
    stats.reset()
    assert stats == StagePerfStats("s")
    assert stats.__add__(3) is NotImplemented
    assert stats.__radd__(3) is NotImplemented


def test_the_wait_before_the_first_batch_is_not_idle_time():
    timer = StageTimer(Upper())
    timer.reinit(2)
    with timer.time_process(2):
        pass
    name, stats = timer.log_stats(verbose=True)
    assert (name, stats.actor_idle_time, stats.num_items_processed) == ("upper", 0.0, 2)
    timer.reinit(1)
    assert timer.log_stats()[1].actor_idle_time > 0


def test_peaks_are_found_by_gpu():
    found = metrics.gpu_peaks({"gpuexec.gpu10.torch_peak_bytes": 1, "gpuexec.gpu2.process_peak_bytes": 2, "x": 3})
    assert found == [(2, "process_peak_bytes", 2), (10, "torch_peak_bytes", 1)]


def test_resources():
    assert not Resources().requires_gpu
    assert Resources(gpus=0.5).requires_gpu
    assert Resources(gpu_memory_gb=1).requires_gpu
    with pytest.raises(ValueError, match=r"."):
        Resources(gpus=1, gpu_memory_gb=1)


def test_an_allocation_tells_its_devices():
    shares = tuple(GpuShare(i, f"GPU-{i}", "H100", 1.0, None) for i in (3, 5))
    allocation = Allocation(gpus=shares, cpus=2, cuda_visible_devices="GPU-3,GPU-5")
    assert allocation.device_ids == (3, 5)
    assert WorkerMetadata("w", allocation).allocation is allocation
    assert (NodeInfo().node_id, WorkerMetadata().allocation) == ("", None)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(0.25, 20, 80)], 0.225),
        ([(1.0, 80, 80), (1.0, 72, 80)], 0.81),  # the second is also a desktop's
        ([(1.0, 24, 24)], 0.9),
        ([(0.5, None, None)], 0.45),
        ([(0.333, 7.992, 24)], 0.299),
        ([], None),
    ],
)
def test_what_a_vllm_stage_passes_on(sizes, expected):
    def gib(size: float | None) -> int | None:
        return None if size is None else int(size * 2**30)

    shares = (GpuShare(0, "GPU-0", "H100", part, gib(held), gib(total)) for part, held, total in sizes)
    assert Allocation(tuple(shares)).gpu_memory_utilization == expected


def test_an_allocation_that_an_earlier_version_has_written():
    share = {"index": 0, "uuid": "GPU-0", "name": "H100", "fraction": 0.5, "memory_bytes": 7}
    assert Allocation.from_dict({"gpus": [share]}).gpus[0].memory_total_bytes is None


def test_the_executor_base_reads_the_variable_curator_reads():
    code = (
        "from gpuexec import InlineExecutor\n"
        "print(InlineExecutor().ignore_head_node, InlineExecutor(ignore_head_node=True).ignore_head_node)"
    )
    for value, expected in (("1", "True True"), ("", "False True")):
        env = {**os.environ, "CURATOR_IGNORE_RAY_HEAD_NODE": value}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    with pytest.raises(TypeError, match="abstract"):
        BaseExecutor()


@pytest.mark.parametrize(
    ("inputs", "outputs", "parents"),
    [
        (["0_0"], ["0_0_0", "0_0_1"], [0, 0]),
        (["0_0", "0_1"], ["0_1_0"], [1]),
        (["0_1", "0_11"], ["0_11_0", "0_1_0"], [1, 0]),
        (["0_0", "0_1"], ["rabc", "rdef", "rghi"], [-1, -1, -1]),
        ([], [], []),
    ],
)
def test_parents_are_read_from_ids(inputs, outputs, parents):
    assert list(parents_of(inputs, outputs)) == parents
