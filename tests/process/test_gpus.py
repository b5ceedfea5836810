"""Workers on GPUs: pinned before they start, measured while they work. The driver library is simulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Resources, ResourcesError, StageContractError
from gpuexec.contract.metrics import gpu_peaks
from gpuexec.errors import GpusBusy
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB
from tests.process.stages import Item, Range, items


class OnGpu(ProcessingStage):
    """Tells what it was given, as seen from inside its process."""

    name = "on_gpu"

    def __init__(self, workers: int | None = None, name: str = "on_gpu", **resources: float) -> None:
        self.workers = workers
        self.name = name
        self.resources = Resources(**{"cpus": 0.1, **resources})

    def num_workers(self) -> int | None:
        return self.workers

    def setup(self, worker_metadata=None) -> None:
        self.metadata = worker_metadata

    def process(self, task: Item) -> Item:
        allocation = self.metadata.allocation
        task.data = {
            "visible": os.environ["CUDA_VISIBLE_DEVICES"],
            "order": os.environ["CUDA_DEVICE_ORDER"],
            "device_ids": list(allocation.device_ids),
            "uuids": [share.uuid for share in allocation.gpus],
            "memory": [share.memory_bytes for share in allocation.gpus],
            "said": allocation.cuda_visible_devices,
            "affinity": sorted(os.sched_getaffinity(0)),
            "worker": self.metadata.worker_id,
        }
        return task


class Holds(OnGpu):
    """Is listed by NVML with 3 GiB while it works, and 1 GiB afterwards."""

    def process(self, task: Item) -> Item:
        gpu = self.metadata.allocation.device_ids[0]
        simulator.hold_memory(gpu, 3 * GIB)
        self.wait_for_sample()
        simulator.hold_memory(gpu, 1 * GIB)
        return task

    def wait_for_sample(self) -> None:
        """Until the probe's thread has read the 3 GiB."""
        import gc

        from gpuexec.worker.memory import _Sampler

        (sampler,) = [o for o in gc.get_objects() if isinstance(o, _Sampler)]
        while 3 * GIB not in sampler._peaks.values():
            os.sched_yield()


def run(*stages, tasks=None, **options):
    executor = LocalExecutor(show_progress=False, **options)
    tasks = items(*range(8)) if tasks is None else tasks
    out = Pipeline("p", stages=list(stages)).run(executor, initial_tasks=tasks)
    return out, executor.last_report


def test_workers_are_pinned_by_uuid(nvml_node):
    nvml_node(nodes.unequal())
    out, report = run(OnGpu(workers=3, gpus=1))
    for task in out:
        (uuid,) = task.data["uuids"]
        assert task.data["visible"] == task.data["said"] == uuid == nodes.uuid(task.data["device_ids"][0])
        assert task.data["order"] == "PCI_BUS_ID"
    assert len({worker.worker_id for worker in report.workers}) == 3


def test_only_what_the_callers_variable_shows_is_given_out(nvml_node, monkeypatch):
    nvml_node(nodes.eight_nvlink())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,3")
    out, _ = run(OnGpu(workers=1, gpus=2))
    assert set(out[0].data["device_ids"]) == {3, 6}


def test_integers_of_an_unknown_order_are_said(nvml_node, monkeypatch):
    nvml_node(nodes.unequal())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        out, _ = run(OnGpu(workers=1, gpus=1), tasks=items(0))
    finally:
        logger.remove(handler)
    assert out[0].data["device_ids"] == [1]
    assert any("FASTEST_FIRST" in line for line in lines)


def test_a_mig_worker_gets_one_slice(nvml_node):
    nvml_node(nodes.mig())
    out, _ = run(OnGpu(workers=1, gpu_memory_gb=30))
    assert out[0].data["visible"] == nodes.uuid(0, "MIG")
    assert out[0].data["memory"] == [30 * GIB]


def test_memory_requests_follow_the_real_sizes(nvml_node):
    nvml_node(nodes.unequal())
    _, report = run(OnGpu(gpu_memory_gb=20), tasks=items(*range(40)))
    assert "4 × gpu_memory_gb=20" in report.stages[0].plan_reason, "79.5 // 20 + 23.5 // 20 + 0"


def test_a_worker_near_its_gpu(nvml_node):
    mine = sorted(os.sched_getaffinity(0))
    description = nodes.unequal()
    for gpu in description["gpus"]:
        gpu["cpu_affinity"] = mine[:1]
    nvml_node(description)
    out, _ = run(OnGpu(workers=1, gpus=1))
    assert out[0].data["affinity"] == mine[:1]


def test_a_cpu_stage_sees_no_gpu_unless_told(nvml_node):
    nvml_node(nodes.unequal())
    out, _ = run(OnGpu())
    assert {task.data["visible"] for task in out} == {""}
    out, _ = run(OnGpu(), cpu_stages_see_gpus=True)
    assert {task.data["visible"] for task in out} == {",".join(nodes.uuid(i) for i in range(3))}


def test_memory_of_the_process_and_its_peak_are_on_every_task(nvml_node):
    nvml_node(nodes.held())
    out, report = run(Holds(workers=1, gpus=1), tasks=items(0, 1))
    for task in out:
        metrics = task._stage_perf[-1].custom_metrics
        assert metrics["gpuexec.gpu1.process_used_bytes"] == GIB
        assert metrics["gpuexec.gpu1.process_peak_bytes"] == 3 * GIB
        assert metrics["gpuexec.gpu1.memory_source.nvml_process"] == 1
        assert not [key for key in metrics if "absent" in key]
    assert gpu_peaks(report.stages[0].metrics) == [(1, "process_peak_bytes", 3 * GIB)], "a peak is not summed"


def test_a_figure_that_cannot_be_had_is_absent_with_a_reason(nvml_node):
    nvml_node(nodes.small())
    out, _ = run(OnGpu(workers=1, gpus=0.5), tasks=items(0))
    metrics = out[0]._stage_perf[-1].custom_metrics
    assert metrics["gpuexec.gpu0.memory_source.absent"] == 1
    assert metrics["gpuexec.gpu0.memory_absent.not_listed_by_nvml"] == 1
    assert not [key for key in metrics if key.endswith("_bytes") and "gpu0" in key]


def test_mig_has_no_figure_of_its_own(nvml_node):
    nvml_node(nodes.mig())
    out, _ = run(OnGpu(workers=1, gpus=1), tasks=items(0))
    assert out[0]._stage_perf[-1].custom_metrics["gpuexec.gpu0.memory_absent.mig"] == 1


@pytest.mark.parametrize(("value", "why"), [("", "''"), ("-1", "negative"), ("0,0", "twice"), ("GPU-zz", "no GPU has")])
def test_a_variable_that_selects_nothing_while_a_stage_asks_for_a_gpu(nvml_node, monkeypatch, value, why):
    nvml_node(nodes.unequal())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with pytest.raises(ResourcesError) as caught:
        run(OnGpu(gpus=1))
    text = str(caught.value)
    assert "stage 'on_gpu' asks for gpus=1" in text
    assert f"CUDA_VISIBLE_DEVICES={value!r} selects none of the node's 3 GPU(s)" in text
    assert why in text
    assert "gpuexec gpus" in text


def test_a_driver_that_is_not_there_while_a_stage_asks_for_a_gpu(nvml_node):
    nvml_node({**nodes.small(), "init_error": 9})
    with pytest.raises(ResourcesError, match=r"asks for gpus=1, but there is no GPU for it: .*kernel module"):
        run(OnGpu(gpus=1))


def test_lost_gpus_are_left_out(nvml_node):
    nvml_node(nodes.lost())
    out, _ = run(OnGpu(gpus=1), tasks=items(0))
    assert out[0].data["device_ids"] == [0]
    with pytest.raises(ResourcesError, match="is lost"):
        run(OnGpu(gpus=2))


def test_a_held_gpu_is_skipped_refused_or_waited_for(nvml_node):
    node = nvml_node(nodes.held())
    out, _ = run(OnGpu(workers=1, gpus=1))
    assert out[0].data["device_ids"] == [1]
    with pytest.raises(ResourcesError, match="busy_gpus='error'"):
        run(OnGpu(gpus=1), busy_gpus="error")
    with pytest.raises(GpusBusy, match="did not free them in time"):
        run(OnGpu(gpus=1), busy_gpus="wait", busy_gpu_timeout_s=0)
    node.change(lambda d: d["gpus"][0].update(processes=[]))
    out, _ = run(OnGpu(workers=1, gpus=2), busy_gpus="wait")
    assert out[0].data["device_ids"] == [0, 1]


def test_stages_that_do_not_fit_at_once_run_one_after_the_other(nvml_node):
    nvml_node(nodes.small())
    out, report = run(Range(20), OnGpu(name="first", gpus=1), OnGpu(name="second", gpus=1), tasks=items(0))
    assert len(out) == 20
    assert {task.data["worker"] for task in out} == {"second-0"}
    assert "2 phases" in report.notes[0]
    first, second = (next(w for w in report.workers if w.worker_id == f"{name}-0") for name in ("first", "second"))
    assert first.exit_code == second.exit_code == 0


class GrowsOnNode(OnGpu):
    """Leaves memory held, as a daemon that it starts would."""

    def setup_on_node(self, node_info=None, worker_metadata=None) -> None:
        simulator.hold_memory(worker_metadata.allocation.device_ids[0], 2 * GIB)


def test_memory_left_behind_by_setup_on_node_is_reported(nvml_node):
    nvml_node(nodes.unequal())
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        _, report = run(GrowsOnNode(workers=1, gpus=1), tasks=items(0))
    finally:
        logger.remove(handler)
    ((_, grown),) = report.stages[0].node_setup_gpu_growth_bytes
    assert grown == 2 * GIB
    assert any("left 2,048 MiB more in use" in line for line in lines)


class Loads(OnGpu):
    """Writes down when its setup begins and ends."""

    def __init__(self, log: Path, **resources: float) -> None:
        super().__init__(workers=4, **resources)
        self.log = log

    def setup(self, worker_metadata=None) -> None:
        super().setup(worker_metadata)
        gpu = worker_metadata.allocation.device_ids[0]
        for word in ("begin", "end"):
            with self.log.open("a") as out:
                out.write(f"{gpu} {word}\n")


def test_setups_on_one_gpu_never_overlap(nvml_node, tmp_path: Path):
    nvml_node(nodes.unequal())
    log = tmp_path / "log"
    run(Loads(log, gpu_memory_gb=20))
    by_gpu: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        gpu, word = line.split()
        by_gpu.setdefault(gpu, []).append(word)
    assert all(words == ["begin", "end"] * (len(words) // 2) for words in by_gpu.values())


FAKE_TORCH = '''
class cuda:
    """What gpuexec asks torch for, answered from a file-wide table: a test double of torch itself, not of NVML."""
    peak = {0: 5}
    is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    memory_allocated = staticmethod(lambda ordinal: 10 + ordinal)
    memory_reserved = staticmethod(lambda ordinal: 20 + ordinal)
    max_memory_allocated = staticmethod(lambda ordinal: cuda.peak[ordinal])
    @staticmethod
    def reset_peak_memory_stats(ordinal):
        cuda.peak[ordinal] = 30 + ordinal

    class _Properties:
        def __init__(self, ordinal):
            import os
            given = os.environ.get("FAKE_TORCH_SEES", os.environ["CUDA_VISIBLE_DEVICES"])
            self.uuid = given.split(",")[ordinal].removeprefix("GPU-")
    get_device_properties = staticmethod(_Properties)
'''


class ImportsTorch(OnGpu):
    def setup(self, worker_metadata=None) -> None:
        super().setup(worker_metadata)
        import torch  # noqa: F401


def test_the_stages_own_torch_is_asked_first(nvml_node, tmp_path: Path, monkeypatch):
    """CPU builds of torch have no allocator to ask, so a stand-in module is put on the workers' path."""
    nvml_node(nodes.held())
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    out, _ = run(ImportsTorch(workers=1, gpus=1), tasks=items(0))
    metrics = out[0]._stage_perf[-1].custom_metrics
    assert metrics["gpuexec.gpu1.torch_allocated_bytes"] == 10
    assert metrics["gpuexec.gpu1.torch_reserved_bytes"] == 20
    assert metrics["gpuexec.gpu1.torch_peak_bytes"] == 30
    assert metrics["gpuexec.gpu1.memory_source.torch"] == 1


def test_a_worker_on_somebody_elses_gpu_is_stopped(nvml_node, tmp_path: Path, monkeypatch):
    nvml_node(nodes.held())
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FAKE_TORCH_SEES", nodes.uuid(0))
    with pytest.raises(StageContractError) as caught:
        run(ImportsTorch(workers=1, gpus=1), tasks=items(0))
    assert f"CUDA shows this worker {nodes.uuid(0)}, but it was given {nodes.uuid(1)}" in str(caught.value)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from gpuexec.cli import main; main()", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "140", **environment},
        timeout=60,
    )


def test_the_gpus_command(nvml_node):
    nvml_node(nodes.eight_nvlink())
    done = command("gpus")
    assert done.returncode == 0
    for said in ("driver 580.95.05", "H100", nodes.uuid(7), "all (NVLink ×18)", "79.5 GiB"):
        assert said in done.stdout
    assert "GPU 0, 1, 2, 3, 4, 5, 6, 7: mig_enabled unknown: not supported by this GPU" in done.stdout


def test_the_gpus_command_with_mig_and_processes(nvml_node):
    nvml_node(nodes.mig())
    assert "MIG 3g.40gb" in command("gpus").stdout
    nvml_node(nodes.held())
    assert "70.0 GiB" in command("gpus").stdout


def test_gpus_as_json_is_a_node_to_plan_for(nvml_node, tmp_path: Path, monkeypatch):
    nvml_node(nodes.unequal())
    listed = command("gpus", "--json").stdout
    assert [gpu["memory_total_bytes"] for gpu in json.loads(listed)] == [80 * GIB, 24 * GIB, 8 * GIB]
    path = tmp_path / "other.json"
    path.write_text(listed)
    nvml_node(nodes.no_gpu())
    done = command("plan", f"{__name__}:planned", "--node", str(path))
    assert done.returncode == 0, done.stderr
    assert "of GPU 0 (20.0 GiB)" in done.stdout
    done = command("plan", f"{__name__}:planned")
    assert done.returncode == 1
    assert "error: stage 'on_gpu' asks for gpu_memory_gb=20, but there is no GPU" in done.stderr


def planned() -> Pipeline:
    return Pipeline("planned", stages=[Range(3), OnGpu(gpu_memory_gb=20)])


def test_no_driver_is_one_line_and_no_error():
    env = {"LD_LIBRARY_PATH": "", simulator.VARIABLE: ""}
    done = command("gpus", **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no GPU: ")
    assert done.stdout.count("\n") == 1
    assert json.loads(command("gpus", "--json", **env).stdout) == []
