"""Workers on GPUs: pinned before they start, measured while they work. The driver library is simulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuexec import ProcessingStage, ResourcesError, StageContractError
from gpuexec.contract.metrics import gpu_peaks
from gpuexec.errors import GpusBusy
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB
from tests.process.running import ROOT, Ran, local_executor, logged, run_command, run_local
from tests.process.stages import Item, Range, items
from tests.process.stages.gpus import (
    GrowsOnNode,
    Holds,
    ImportsTorch,
    Loads,
    OnGpu,
    ReadsNumbers,
    RunsAnother,
    WantsCuda,
)
from tests.process.waiting import wait_until


def run(*stages: ProcessingStage, tasks: list[Item] | None = None, **options: Any) -> Ran:
    return run_local(list(stages), items(*range(8)) if tasks is None else tasks, **options)


def test_workers_are_pinned_by_uuid(nvml_node):
    nvml_node(nodes.unequal())
    ran = run(OnGpu(workers=3, gpus=1))
    for task in ran.tasks:
        (uuid,) = task.data["uuids"]
        assert task.data["visible"] == task.data["expected"] == uuid == nodes.uuid(task.data["device_ids"][0])
        assert task.data["order"] == "PCI_BUS_ID"
    assert len({worker.worker_id for worker in ran.report.workers}) == 3


def test_workers_are_pinned_by_number_where_a_library_wants_that(nvml_node):
    nvml_node(nodes.unequal())
    ran = run(ReadsNumbers(workers=3, gpus=1), gpu_pinning="index")
    for task in ran.tasks:
        assert task.data["numbers"] == task.data["device_ids"]
        assert task.data["visible"] == task.data["expected"] == str(task.data["device_ids"][0])
        assert task.data["order"] == "PCI_BUS_ID"
    assert len({worker.worker_id for worker in ran.report.workers}) == 3


def test_numbers_are_those_of_the_node_whatever_the_caller_sees(nvml_node, monkeypatch):
    nvml_node(nodes.eight_nvlink())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,3")
    ran = run(ReadsNumbers(workers=1, gpus=2), gpu_pinning="index")
    assert sorted(ran.data[0]["numbers"]) == [3, 6]
    ran = run(OnGpu(), gpu_pinning="index", cpu_stages_see_gpus=True)
    assert {task.data["visible"] for task in ran.tasks} == {"6,3"}


def test_a_mig_slice_has_no_number(nvml_node):
    nvml_node(nodes.mig())
    ran = run(OnGpu(workers=1, gpu_memory_gb=30), gpu_pinning="index")
    assert ran.data[0]["visible"] == nodes.uuid(0, "MIG")
    assert any("MIG slice" in note for note in ran.report.notes)


def test_a_set_up_that_trips_over_a_uuid_names_the_option(nvml_node):
    nvml_node(nodes.unequal())
    error = run(ReadsNumbers(workers=1, gpus=1), raises=ValueError).error
    assert any("gpu_pinning='index'" in note for note in error.__notes__)


def test_a_cpu_stage_that_fails_without_a_gpu_names_the_option(nvml_node):
    nvml_node(nodes.unequal())
    error = run(ReadsNumbers(), raises=ValueError).error
    assert any("cpu_stages_see_gpus=True" in note for note in error.__notes__)


def test_tasks_that_are_quarantined_for_want_of_a_gpu_name_the_option_once(nvml_node):
    nvml_node(nodes.unequal())
    with logged("WARNING") as messages:
        run(WantsCuda(), on_task_failure="quarantine")
    assert len([message for message in messages if "cpu_stages_see_gpus=True" in message]) == 1


def test_only_what_the_callers_variable_shows_is_given_out(nvml_node, monkeypatch):
    nvml_node(nodes.eight_nvlink())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,3")
    ran = run(OnGpu(workers=1, gpus=2))
    assert set(ran.data[0]["device_ids"]) == {3, 6}


def test_a_warning_about_integers_of_an_unknown_order(nvml_node, monkeypatch):
    nvml_node(nodes.unequal())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    with logged("WARNING") as messages:
        ran = run(OnGpu(workers=1, gpus=1), tasks=items(0))
    assert ran.data[0]["device_ids"] == [1]
    assert any("FASTEST_FIRST" in message for message in messages)


def test_a_mig_worker_gets_one_slice(nvml_node):
    nvml_node(nodes.mig())
    ran = run(OnGpu(workers=1, gpu_memory_gb=30))
    assert ran.data[0]["visible"] == nodes.uuid(0, "MIG")
    assert ran.data[0]["memory"] == [30 * GIB]


def test_memory_requests_follow_the_real_sizes(nvml_node):
    nvml_node(nodes.unequal())
    ran = run(OnGpu(gpu_memory_gb=20), tasks=items(*range(40)))
    assert "4 × gpu_memory_gb=20" in ran.report.stages[0].plan_reason, "79.5 // 20 + 23.5 // 20 + 0"


def test_a_worker_near_its_gpu(nvml_node):
    mine = sorted(os.sched_getaffinity(0))
    description = nodes.unequal()
    for gpu in description["gpus"]:
        gpu["cpu_affinity"] = mine[:1]
    nvml_node(description)
    ran = run(OnGpu(workers=1, gpus=1))
    assert ran.data[0]["affinity"] == mine[:1]


def test_a_cpu_stage_sees_no_gpu_unless_an_option_says_so(nvml_node):
    nvml_node(nodes.unequal())
    ran = run(OnGpu())
    assert {task.data["visible"] for task in ran.tasks} == {""}
    ran = run(OnGpu(), cpu_stages_see_gpus=True)
    assert {task.data["visible"] for task in ran.tasks} == {",".join(nodes.uuid(i) for i in range(3))}


def test_memory_of_the_process_and_its_peak_are_on_every_task(nvml_node, tmp_path: Path):
    log = tmp_path / "listings"
    nvml_node({**nodes.held(), "listing_log": str(log)})
    ran = run(Holds(log, gpus=1), tasks=items(0, 1))
    for task in ran.tasks:
        metrics = task._stage_perf[-1].custom_metrics
        assert metrics["gpuexec.gpu1.process_used_bytes"] == GIB
        assert metrics["gpuexec.gpu1.process_peak_bytes"] == 3 * GIB
        assert metrics["gpuexec.gpu1.memory_source.nvml_process"] == 1
        assert not [key for key in metrics if "absent" in key]
    assert gpu_peaks(ran.report.stages[0].metrics) == [(1, "process_peak_bytes", 3 * GIB)], "a peak is not summed"


def test_memory_that_cannot_be_read_is_absent_with_a_reason(nvml_node):
    nvml_node(nodes.small())
    ran = run(OnGpu(workers=1, gpus=0.5), tasks=items(0))
    metrics = ran.tasks[0]._stage_perf[-1].custom_metrics
    assert metrics["gpuexec.gpu0.memory_source.absent"] == 1
    assert metrics["gpuexec.gpu0.memory_absent.not_listed_by_nvml"] == 1
    assert not [key for key in metrics if key.endswith("_bytes") and "gpu0" in key]


def test_memory_of_a_process_on_a_mig_slice_is_not_known(nvml_node):
    nvml_node(nodes.mig())
    ran = run(OnGpu(workers=1, gpus=1), tasks=items(0))
    assert ran.tasks[0]._stage_perf[-1].custom_metrics["gpuexec.gpu0.memory_absent.mig"] == 1


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
    ran = run(OnGpu(gpus=1), tasks=items(0))
    assert ran.data[0]["device_ids"] == [0]
    with pytest.raises(ResourcesError, match="is lost"):
        run(OnGpu(gpus=2))


def test_a_held_gpu_is_skipped_refused_or_waited_for(nvml_node):
    node = nvml_node(nodes.held())
    ran = run(OnGpu(workers=1, gpus=1))
    assert ran.data[0]["device_ids"] == [1]
    with pytest.raises(ResourcesError, match="busy_gpus='error'"):
        run(OnGpu(gpus=1), busy_gpus="error")
    with pytest.raises(GpusBusy, match="did not free them in time"):
        run(OnGpu(gpus=1), busy_gpus="wait", busy_gpu_timeout_s=0)
    node.change(lambda d: d["gpus"][0].update(processes=[]))
    ran = run(OnGpu(workers=1, gpus=2), busy_gpus="wait")
    assert ran.data[0]["device_ids"] == [0, 1]


def test_a_desktop_and_this_process_do_not_make_a_gpu_busy(nvml_node):
    desktop = [
        {"pid": 1, "used_bytes": GIB, "kind": "graphics"},
        {"pid": 2, "used_bytes": GIB // 2, "kind": "graphics"},
    ]
    node = nvml_node(nodes.node(nodes.gpu(0, 8, processes=desktop)))
    ran = run(OnGpu(gpu_memory_gb=2, workers=1), tasks=items(0), busy_gpus="error")
    assert any("graphics processes" in note for note in ran.report.notes)
    ran = run(OnGpu(gpus=1), tasks=items(0), busy_gpus="error")
    assert ran.data[0]["memory"] == [6.5 * GIB]
    own = [{"pid": os.getpid(), "used_bytes": 2 * GIB}]
    node.change(lambda d: d["gpus"][0].update(processes=own))
    ran = run(OnGpu(gpus=1), tasks=items(0), busy_gpus="error")
    assert any(f"this process: python (pid {os.getpid()})" in note for note in ran.report.notes), ran.report.notes
    node.change(lambda d: d["gpus"][0].update(processes=[{"pid": os.getppid(), "used_bytes": 2 * GIB}]))
    error = run(OnGpu(gpus=1), raises=ResourcesError).error
    assert f"(pid {os.getppid()})" in str(error)


@pytest.fixture
def mps_server(tmp_path: Path, monkeypatch) -> Iterator[int]:
    """A process with the name of an MPS server; its pid."""
    program = tmp_path / "nvidia-cuda-mps-server"
    shutil.copy(shutil.which("sleep"), program)
    program.chmod(0o700)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    with subprocess.Popen([program, "300"]) as server:
        try:
            wait_until(lambda: Path(f"/proc/{server.pid}/comm").read_text().startswith("nvidia"))
            yield server.pid
        finally:
            server.kill()


def test_an_mps_server_shares_a_gpu_in_exclusive_mode(nvml_node, mps_server: int):
    server = {"pid": mps_server, "used_bytes": 30 * nodes.MIB}
    node = nvml_node(nodes.node(nodes.gpu(0, compute_mode="exclusive_process", processes=[server])))
    ran = run(OnGpu(gpus=0.25), tasks=items(0))
    assert "4 × gpus=0.25" in ran.report.stages[0].plan_reason
    assert any("MPS" in note for note in ran.report.notes)
    node.change(lambda d: d["gpus"][0].update(processes=[]))
    ran = run(OnGpu(gpus=0.25), tasks=items(0))
    assert "1 × gpus=0.25" in ran.report.stages[0].plan_reason, "without a server nobody shares it"


def start_run(note: Path, **resources: float) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own whose set-up waits; return once it is there."""
    code = (
        "from pathlib import Path; from tests.process.running import run_local; from tests.process.stages import items;"
        "from tests.process.stages.gpus import Stays;"
        f"run_local([Stays(Path({str(note)!r}), **{resources!r})], items(0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until(lambda: note.exists() or process.poll() is not None)
    return process


def test_two_runs_do_not_choose_the_same_gpu(nvml_node, tmp_path: Path):
    """No memory is in use yet, since the models are still being loaded."""
    nvml_node(nodes.unequal())
    with start_run(tmp_path / "other", gpus=1) as other:
        try:
            taken = (tmp_path / "other").read_text()
            ran = run(OnGpu(gpus=1))
            assert taken not in {task.data["visible"] for task in ran.tasks}
            assert any(f"pid {other.pid}" in note for note in ran.report.notes)
            error = run(OnGpu(gpus=1), raises=ResourcesError, busy_gpus="error").error
            assert f"pid {other.pid}" in str(error)
            run(OnGpu(gpus=3), raises=ResourcesError)
            run(OnGpu(gpus=3), raises=GpusBusy, busy_gpus="wait", busy_gpu_timeout_s=0)
        finally:
            other.kill()
    assert run(OnGpu(gpus=3)).tasks, "the kernel has taken the lease back"


def test_two_runs_share_a_gpu_by_leases_and_what_they_use_of_them(nvml_node, tmp_path: Path):
    node = nvml_node(nodes.node(nodes.gpu(0)))
    with start_run(tmp_path / "other", gpu_memory_gb=40) as other:
        try:
            node.change(lambda d: d["gpus"][0].update(processes=[{"pid": other.pid, "used_bytes": 30 * GIB}]))
            assert run(OnGpu(gpu_memory_gb=39, workers=1)).data[0]["device_ids"] == [0]
            run(OnGpu(gpu_memory_gb=40, workers=1), raises=ResourcesError)
        finally:
            other.kill()


def test_a_run_inside_a_stage_works_within_its_share(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0)))
    assert run(RunsAnother(workers=1, gpus=1), tasks=items(0)).data[0] == [0]


def test_an_iterator_gives_its_lease_back_when_it_is_closed_or_dropped(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0)))
    for end in ("close", "drop"):
        results = local_executor().execute_iter([OnGpu(gpus=1)], items(*range(8)))
        run(OnGpu(gpus=1), raises=ResourcesError)
        if end == "close":
            next(results)
            results.close()
        del results
    assert run(OnGpu(gpus=1)).tasks


def test_stages_that_do_not_fit_at_once_run_one_after_the_other(nvml_node):
    nvml_node(nodes.small())
    ran = run(Range(20), OnGpu(name="first", gpus=1), OnGpu(name="second", gpus=1), tasks=items(0))
    assert len(ran.tasks) == 20
    assert {task.data["worker"].rpartition("-")[0] for task in ran.tasks} == {"second-0"}
    assert "2 phases" in ran.report.notes[0]
    first, second = (next(w for w in ran.report.workers if w.worker_id == f"{name}-0") for name in ("first", "second"))
    assert first.exit_code == second.exit_code == 0


def test_memory_left_behind_by_setup_on_node_is_reported(nvml_node):
    nvml_node(nodes.unequal())
    with logged("WARNING") as messages:
        ran = run(GrowsOnNode(workers=1, gpus=1), tasks=items(0))
    ((_, grown),) = ran.report.stages[0].node_setup_gpu_growth_bytes
    assert grown == 2 * GIB
    assert any("left 2,048 MiB more in use" in message for message in messages)


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


def test_the_stages_own_torch_is_asked_first(nvml_node, tmp_path: Path, monkeypatch):
    """CPU builds of torch have no allocator to ask, so a stand-in module is put on the workers' path."""
    nvml_node(nodes.held())
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = run(ImportsTorch(workers=1, gpus=1), tasks=items(0))
    metrics = ran.tasks[0]._stage_perf[-1].custom_metrics
    assert metrics["gpuexec.gpu1.torch_allocated_bytes"] == 10
    assert metrics["gpuexec.gpu1.torch_reserved_bytes"] == 20
    assert metrics["gpuexec.gpu1.torch_peak_bytes"] == 30
    assert metrics["gpuexec.gpu1.memory_source.torch"] == 1


def test_a_worker_on_the_wrong_gpu_is_stopped(nvml_node, tmp_path: Path, monkeypatch):
    nvml_node(nodes.held())
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FAKE_TORCH_SEES", nodes.uuid(0))
    with pytest.raises(StageContractError) as caught:
        run(ImportsTorch(workers=1, gpus=1), tasks=items(0))
    assert f"CUDA shows this worker {nodes.uuid(0)}, but it was given {nodes.uuid(1)}" in str(caught.value)


def test_the_gpus_command(nvml_node):
    nvml_node(nodes.eight_nvlink())
    done = run_command("gpus", COLUMNS="140")
    assert done.returncode == 0
    for part in ("driver 580.95.05", "H100", nodes.uuid(7), "all (NVLink ×18)", "79.5 GiB"):
        assert part in done.stdout
    assert "GPU 0, 1, 2, 3, 4, 5, 6, 7: mig_enabled unknown: not supported by this GPU" in done.stdout


def test_the_gpus_command_with_mig_and_processes(nvml_node):
    nvml_node(nodes.mig())
    assert "MIG 3g.40gb" in run_command("gpus", COLUMNS="140").stdout
    nvml_node(nodes.held())
    assert "70.0 GiB" in run_command("gpus", COLUMNS="140").stdout


def test_gpus_as_json_is_a_node_to_plan_for(nvml_node, tmp_path: Path, monkeypatch):
    nvml_node(nodes.unequal())
    listed = run_command("gpus", "--json").stdout
    assert [gpu["memory_total_bytes"] for gpu in json.loads(listed)] == [80 * GIB, 24 * GIB, 8 * GIB]
    path = tmp_path / "other.json"
    path.write_text(listed)
    nvml_node(nodes.no_gpu())
    done = run_command("plan", "tests.process.stages.gpus:planned", "--node", str(path), COLUMNS="140")
    assert done.returncode == 0, done.stderr
    assert "of GPU 0 (20.0 GiB)" in done.stdout
    done = run_command("plan", "tests.process.stages.gpus:planned", COLUMNS="140")
    assert done.returncode == 1
    assert "error: stage 'on_gpu' asks for gpu_memory_gb=20, but there is no GPU" in done.stderr


def test_no_driver_is_one_line_and_no_error():
    env = {"LD_LIBRARY_PATH": "", simulator.VARIABLE: ""}
    done = run_command("gpus", **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no GPU: ")
    assert done.stdout.count("\n") == 1
    assert json.loads(run_command("gpus", "--json", **env).stdout) == []
