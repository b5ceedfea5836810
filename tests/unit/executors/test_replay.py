from __future__ import annotations

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger

import gpuexec
from gpuexec.capsules.write import CapsuleContents, write_capsule
from gpuexec.channel import codec
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.errors import CapsuleError
from gpuexec.executors.replay import load_capsule, replay
from gpuexec.hardware.visible_devices import VARIABLE
from tests.nvml_sim import nodes
from tests.process import stages
from tests.process.stages import Apply, Item, Journal, items


def capsule(folder: Path, stage: Any, *blocks: Any, **fields: Any):
    defaults = {
        "stage": "journal",
        "worker_id": "journal-3",
        "node_id": "node7",
        "phase": "process",
        "attempt": 1,
        "error_type": "builtins.LookupError",
        "text": "LookupError: no 2",
        "traceback": "",
        "task_ids": (),
        "allocation": dataclasses.asdict(Allocation(cpus=2.0)),
        "environ": {},
        "stage_payload": codec.encode(stage).join(),
        "task_payloads": [codec.encode(block).join() for block in blocks],
        "sys_path": sys.path,
    }
    return load_capsule(write_capsule(folder / "capsules", CapsuleContents(**{**defaults, **fields})))


@pytest.fixture
def warnings():
    """The warnings that were logged."""
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(handler)


def calls(log: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in log.read_text().splitlines()]


def test_the_batch_runs_as_in_a_worker(tmp_path: Path):
    stage = Journal(tmp_path / "log")
    out = replay(capsule(tmp_path, stage, items(1, 2), items(3, 4, 5)[:2], Item("test", 6)))
    assert [task.data for task in out] == [1, 2, 3, 4, 6]
    assert out[0]._stage_perf[-1].num_items_processed == 5
    lines = calls(tmp_path / "log")
    assert lines[0].startswith("setup_on_node")
    assert lines[0].endswith("journal-3")
    assert lines[1:] == ["setup journal-3 Allocation", *(f"process {n}" for n in (1, 2, 3, 4, 6)), "teardown"]


def test_a_capsule_is_also_given_by_its_folder(tmp_path: Path):
    found = capsule(tmp_path, Apply(stages.double), items(1, 2))
    assert [task.data for task in gpuexec.replay(str(found.path))] == [2, 4]
    assert gpuexec.load_capsule(str(found.path)).failure.stage == "journal"
    with pytest.raises(CapsuleError, match="no such folder"):
        gpuexec.replay(tmp_path / "nowhere")


def test_slices_of_blocks(tmp_path: Path):
    found = capsule(
        tmp_path,
        Apply(stages.double),
        items(1, 2, 3),
        items(4),
        items(5, 6),
        task_slices=[(1, 3), None, (0, 1)],
    )
    assert [task.data for task in replay(found)] == [4, 6, 8, 10]


def test_the_exception_passes_through_and_teardown_follows_the_debugger(tmp_path: Path):
    seen = []

    def on_error(error: BaseException) -> None:
        seen.append((error, calls(tmp_path / "log")[-1]))

    with pytest.raises(LookupError, match="no 2") as caught:
        replay(capsule(tmp_path, Journal(tmp_path / "log", fail_on=2), items(1, 2)), on_error=on_error)
    assert seen == [(caught.value, "process 2")]
    assert caught.traceback[-1].name == "process"
    assert calls(tmp_path / "log")[-1] == "teardown"


@pytest.mark.parametrize(
    ("phase", "last"), [("setup_on_node", "setup_on_node"), ("setup", "teardown"), ("teardown", "teardown")]
)
def test_life_cycle_methods_that_raise(tmp_path: Path, phase: str, last: str):
    with pytest.raises(LookupError, match=f"in {phase}"):
        replay(capsule(tmp_path, Journal(tmp_path / "log", fail_in=phase), phase=phase))
    assert calls(tmp_path / "log")[-1].startswith(last)
    assert calls(tmp_path / "log").count("teardown") == (phase != "setup_on_node")


class FailsTwice(Apply):
    """Raises in ``process`` and again in ``teardown``."""

    def __init__(self) -> None:
        super().__init__(stages.raise_choosy)

    def teardown(self) -> None:
        raise OSError("in teardown")


def test_teardown_never_hides_the_failure(tmp_path: Path, warnings: list[str]):
    with pytest.raises(stages.Choosy):
        replay(capsule(tmp_path, FailsTwice(), items(1)))
    assert any("teardown() raised too: OSError: in teardown" in line for line in warnings)


def test_a_result_that_cannot_be_pickled_fails_again(tmp_path: Path):
    with pytest.raises(TypeError, match="lock"):
        replay(capsule(tmp_path, Apply(stages.return_lock), items(1), phase="return"))
    (task,) = replay(capsule(tmp_path, Apply(stages.return_lock), items(1)))
    assert isinstance(task.data, type(threading.Lock()))


def test_a_task_that_does_not_unpickle_fails_again(tmp_path: Path):
    with pytest.raises(ValueError, match="invalid literal for int"):
        replay(capsule(tmp_path, Apply(abs), items(stages.PicklesOnly()), phase="receive"))
    with pytest.raises(CapsuleError, match="cannot be unpickled here"):
        replay(capsule(tmp_path, Apply(abs), items(stages.PicklesOnly())))


def test_received_arrays_are_writable(tmp_path: Path):
    (task,) = replay(capsule(tmp_path, Apply(stages.write_into), items(np.zeros(100_000, np.uint8))))
    assert task.data == 100_000


def test_a_class_of_a_script_travels_by_value(tmp_path: Path):
    script = "class Local(Apply):\n    def process(self, task):\n        raise KeyError(task.data)\n"
    space: dict[str, Any] = {"Apply": Apply, "__name__": "__main__"}
    exec(script, space)
    with pytest.raises(KeyError, match="7"):
        replay(capsule(tmp_path, space["Local"](abs), items(7)))


def test_the_environment_is_the_workers_and_ours_afterwards(tmp_path: Path, monkeypatch, warnings: list[str]):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("HF_TOKEN", "mine")
    before, path_before = dict(os.environ), list(sys.path)
    found = capsule(
        tmp_path,
        Apply(stages.environment),
        items(1),
        environ={"OMP_NUM_THREADS": "2", "HOME": "/nowhere", "HF_TOKEN": "theirs", "SENTRY_DSN": "x"},
        env_vars={"MODE": "fast", "CUDA_VISIBLE_DEVICES": "7"},
        sys_path=["/run/first", *sys.path],
    )
    (task,) = replay(found)
    assert task.data["OMP_NUM_THREADS"] == "2"
    assert task.data["MODE"] == "fast"
    assert task.data["CUDA_VISIBLE_DEVICES"] == ""
    assert task.data["HOME"] == before["HOME"]
    assert task.data["HF_TOKEN"] == "mine"
    assert dict(os.environ) == before
    assert sys.path == path_before
    assert any("not set here: SENTRY_DSN;" in line for line in warnings)


def test_modules_are_found_on_the_runs_path(tmp_path: Path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_there_2b1.py").write_text("def triple(value):\n    return 3 * value\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    import only_there_2b1

    found = capsule(tmp_path, Apply(only_there_2b1.triple), items(2), sys_path=[str(tmp_path / "lib")])
    monkeypatch.undo()
    del sys.modules["only_there_2b1"]
    assert [task.data for task in replay(found)] == [6]
    del sys.modules["only_there_2b1"]
    with pytest.raises(CapsuleError, match=r"ModuleNotFoundError: .*replay it in the environment of the run"):
        replay(dataclasses.replace(found, failure=dataclasses.replace(found.failure, sys_path=[])))


def test_pickles_that_are_garbage(tmp_path: Path):
    for payload in (b"", b"garbage", bytes(100)):
        with pytest.raises(CapsuleError, match="cannot be unpickled here"):
            replay(capsule(tmp_path, None, stage_payload=payload))


def test_another_python(tmp_path: Path, warnings: list[str]):
    plain = dataclasses.replace(capsule(tmp_path, Apply(stages.double), items(2)), versions={"python": "3.99.1"})
    assert [task.data for task in replay(plain)] == [4]
    assert any("the batch failed under Python 3.99.1, this is 3." in line for line in warnings)
    code = dataclasses.replace(capsule(tmp_path, Apply(lambda x: x), items(2)), versions={"python": "3.99.1"})
    with pytest.raises(CapsuleError, match=r"holds code of Python 3\.99\.1"):
        replay(code)


def test_tasks_that_were_left_out(tmp_path: Path):
    payload = codec.encode(items(bytes(5000))).join()
    written = CapsuleContents(
        *("s", "s-0", "n", "process", 1, "E", "", "", (), {}, {}), codec.encode(Apply(abs)).join(), [payload]
    )
    with pytest.raises(CapsuleError, match="cannot be replayed: it was written without the tasks, of 5,"):
        replay(load_capsule(write_capsule(tmp_path, written, max_bytes=4000)))


def test_another_working_directory_is_reported(tmp_path: Path, monkeypatch, warnings: list[str]):
    found = capsule(tmp_path, Apply(stages.double), items(2))
    monkeypatch.chdir(tmp_path)
    replay(found)
    assert any("relative paths mean something else here" in line for line in warnings)


class ReturnsItsGpus(Apply):
    """Returns its allocation and what CUDA would read."""

    def __init__(self) -> None:
        super().__init__(abs)

    def setup(self, worker_metadata=None) -> None:
        self.allocation = worker_metadata.allocation

    def process(self, task: Item) -> Item:
        task.data = (self.allocation, os.environ.get(VARIABLE), os.environ.get("CUDA_DEVICE_ORDER"))
        return task


def allocation(*numbers: int) -> dict[str, Any]:
    shares = tuple(GpuShare(n, nodes.uuid(n), "GPU", 0.25, 7) for n in numbers)
    return dataclasses.asdict(Allocation(shares, 2.0, ",".join(share.uuid for share in shares)))


def test_gpus_that_are_here_are_used_again(nvml_node, tmp_path: Path):
    nvml_node(nodes.eight_nvlink())
    (task,) = replay(capsule(tmp_path, ReturnsItsGpus(), items(1), allocation=allocation(5, 2)))
    given, visible, order = task.data
    assert visible == f"{nodes.uuid(5)},{nodes.uuid(2)}"
    assert order == "PCI_BUS_ID"
    assert given.device_ids == (5, 2)
    assert given.gpus[0].fraction == 0.25


@pytest.mark.parametrize("hidden", [False, True])
def test_gpus_that_cannot_be_seen_are_reported(
    nvml_node, tmp_path: Path, monkeypatch, warnings: list[str], hidden: bool
):
    nvml_node(nodes.eight_nvlink() if hidden else nodes.small())
    monkeypatch.setenv(VARIABLE, nodes.uuid(0))
    (task,) = replay(capsule(tmp_path, ReturnsItsGpus(), items(1), allocation=allocation(0, 2)))
    assert task.data[1] == nodes.uuid(0)
    assert any(f"the worker's {nodes.uuid(2)} cannot be seen here" in line for line in warnings)


def test_a_gpu_pinned_by_number_is_found_again_by_its_uuid(nvml_node, tmp_path: Path):
    nvml_node(nodes.unequal())
    share = GpuShare(5, nodes.uuid(1), "GPU", 0.25, 7)  # it was GPU 5 when the batch failed
    moved = dataclasses.asdict(Allocation((share,), 2.0, "5"))
    (task,) = replay(capsule(tmp_path, ReturnsItsGpus(), items(1), allocation=moved))
    assert task.data[1] == "1" == task.data[0].cuda_visible_devices
    assert task.data[0].device_ids == (1,)


def test_a_chosen_gpu(nvml_node, tmp_path: Path, warnings: list[str]):
    nvml_node(nodes.unequal())
    (task,) = replay(capsule(tmp_path, ReturnsItsGpus(), items(1), allocation=allocation(0, 5)), gpu=1)
    given, visible, _ = task.data
    assert visible == nodes.uuid(1) == given.cuda_visible_devices
    assert given.gpus == (GpuShare(1, nodes.uuid(1), "NVIDIA RTX 4090", 1.0, 24 * nodes.GIB, 24 * nodes.GIB),)
    assert given.cpus == 2.0
    assert any("the worker had 2 GPUs, the replay has one" in line for line in warnings)


def test_a_gpu_in_mig_mode_is_its_first_slice(nvml_node, tmp_path: Path, warnings: list[str]):
    nvml_node(nodes.mig())
    (task,) = replay(capsule(tmp_path, ReturnsItsGpus(), items(1)), gpu=0)
    assert task.data[1] == nodes.uuid(0, "MIG")
    assert any("its first slice" in line for line in warnings)


def test_a_gpu_that_is_not_there(nvml_node, tmp_path: Path):
    found = capsule(tmp_path, ReturnsItsGpus(), items(1))
    nvml_node(nodes.lost())
    for number in (1, 9):
        with pytest.raises(CapsuleError, match=rf"no GPU {number} to replay on: usable: 0"):
            replay(found, gpu=number)
    nvml_node(nodes.no_gpu())
    with pytest.raises(CapsuleError, match=r"reports no GPU"):
        replay(found, gpu=0)
