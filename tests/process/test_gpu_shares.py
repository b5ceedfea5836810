"""Shares of a GPU that hold: told to libraries, checked, given to MPS, and kept apart between runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuexec import ProcessingStage, ResourcesError
from gpuexec.errors import ConfigurationError, GpusBusy, GpuShareExceeded
from gpuexec.hardware import lease_folder
from gpuexec.processes import mps_daemon
from tests.mps import stand_in
from tests.nvml_sim import nodes
from tests.process.running import ROOT, Ran, logged, run_command, run_local
from tests.process.stages import items
from tests.process.stages.gpus import AsksTorch, Exceeds, OnGpu, ReportsEnvironment
from tests.process.waiting import wait_until


def run(*stages: ProcessingStage, tasks: Any = (0,), **options: Any) -> Ran:
    return run_local(list(stages), items(*tasks), **options)


# ---- libraries -----------------------------------------------------------------------------------------


def test_a_worker_knows_its_share_before_it_imports_anything(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    (seen,) = run(ReportsEnvironment(workers=1, gpu_memory_gb=20)).data
    assert seen["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2437"
    assert seen["CUPY_GPU_MEMORY_LIMIT"] == str(int(19.5 * nodes.GIB))
    assert seen["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    stage = ReportsEnvironment(workers=1, gpu_memory_gb=20).with_(share_enforcement="off")
    assert "CUPY_GPU_MEMORY_LIMIT" not in run(stage).data[0]


TORCH_OF_OLD = '''
class cuda:
    """What torch has to defer what is to be done when CUDA is initialised."""
    limits = []
    is_initialized = staticmethod(lambda: False)
    _lazy_call = staticmethod(lambda call: call())
    set_per_process_memory_fraction = staticmethod(lambda fraction, device: cuda.limits.append((fraction, device)))
'''


@pytest.mark.parametrize(("own", "expected"), [("", [(0.24375, 0)]), ("per_process_memory_fraction:0.5", [])])
def test_a_torch_without_the_variable_is_told_when_it_is_imported(nvml_node, tmp_path, monkeypatch, own, expected):
    """A stand-in, since no version of torch that is so old is at hand."""
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    (tmp_path / "torch.py").write_text(TORCH_OF_OLD)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(
        AsksTorch(workers=1, gpu_memory_gb=20), runtime_env={"env_vars": {"PYTORCH_CUDA_ALLOC_CONF": own}}
    ).data == [expected]


# ---- strict --------------------------------------------------------------------------------------------


def test_a_batch_that_goes_over_its_share_fails_and_its_worker_is_replaced(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    options = {"share_enforcement": "strict", "on_task_failure": "quarantine", "max_attempts": 1}
    ran = run(Exceeds(gpu_memory_gb=20).with_(batch_size=1), tasks=(2, 30, 3), **options)
    assert [gib for gib, _ in ran.data] == [2, 3]
    assert len({pid for _, pid in ran.data}) == 2, "what the first held was not trusted to be free again"
    assert ran.report.stages[0].quarantined == 1


def test_the_error_says_what_to_ask_for(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    error = run(Exceeds(gpus=0.25), tasks=(30.2,), share_enforcement="strict", raises=GpuShareExceeded).error
    assert "held 30.20 GiB of GPU 0, more than its share of 20.00 GiB" in str(error)
    assert "gpu_memory_gb=30.5" in str(error)


def test_what_a_stages_own_process_holds_counts(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    run(Exceeds(in_child=True, gpus=0.25), tasks=(30,), share_enforcement="strict", raises=GpuShareExceeded)


def test_a_batch_over_its_share_is_halved_like_one_that_ran_out_of_memory(nvml_node, tmp_path: Path):
    log = tmp_path / "listings"
    nvml_node({**nodes.node(nodes.gpu(0, 80)), "listing_log": str(log)})
    stage = Exceeds(gpus=0.25, listing_log=log, frees=True)
    ran = run(stage, tasks=(12, 12), share_enforcement="strict", split_on_oom=True)
    assert [gib for gib, _ in ran.data] == [12, 12]
    assert ran.report.stages[0].metrics["gpuexec.oom_splits"] == 1


def test_other_enforcement_only_tells(nvml_node, tmp_path: Path):
    log = tmp_path / "listings"
    nvml_node({**nodes.node(nodes.gpu(0, 80)), "listing_log": str(log)})
    with logged("WARNING") as messages:
        ran = run(Exceeds(gpus=0.25, listing_log=log, reader=os.getpid()), tasks=(30,), sample_interval_s=0.05)
    assert ran.data[0][0] == 30
    told = [message for message in messages if "more than its share of 20.00 GiB" in message]
    assert len(told) == 1
    assert "gpu_memory_gb=30" in told[0]


def test_what_nvml_does_not_tell_is_not_checked_and_said_so(nvml_node):
    nvml_node(nodes.mig())
    with logged("WARNING") as messages:
        run(OnGpu(workers=1, gpu_memory_gb=20), share_enforcement="strict")
    assert any("is not checked, since NVML does not tell it (mig)" in message for message in messages)


# ---- MPS -----------------------------------------------------------------------------------------------


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short name, since the pipes of daemons are sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def program(tmp_path: Path, monkeypatch) -> Path:
    """The stand-in for NVIDIA's program."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(mps_daemon.tempfile, "tempdir", str(tmp_path))
    return stand_in.install(tmp_path, monkeypatch)


def test_a_run_starts_mps_for_itself_and_ends_it(nvml_node, program: Path):
    nvml_node(nodes.node(nodes.gpu(0, 80, compute_mode="exclusive_process"), nodes.gpu(1, 24, processes=HELD)))
    ran = run(ReportsEnvironment(gpus=0.25), mps="start")
    (seen,) = ran.data
    assert "4 × gpus=0.25" in ran.report.stages[0].plan_reason, "its server shares out a GPU in exclusive mode"
    assert seen["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M"
    pipes = Path(seen["CUDA_MPS_PIPE_DIRECTORY"])
    assert pipes.parent.name.startswith(f"gpuexec-mps-{os.getpid()}-")
    assert not pipes.parent.exists()
    assert stand_in.living(program) == []
    (later,) = run(ReportsEnvironment(gpus=0.25, workers=1)).data
    assert not [name for name in later if name.startswith("CUDA_MPS")], "its template was that of the run before"


HELD = [{"pid": 1, "used_bytes": 20 * nodes.GIB}]


def test_a_run_that_fails_ends_its_mps(nvml_node, program: Path):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    run(Exceeds(gpus=0.25), tasks=(30,), mps="start", share_enforcement="strict", raises=GpuShareExceeded)
    assert stand_in.living(program) == []


def test_mps_of_a_killed_driver_ends(nvml_node, program: Path, tmp_path: Path):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    note = tmp_path / "note"
    code = (
        "from pathlib import Path; from tests.process.running import run_local; from tests.process.stages import items;"
        "from tests.process.stages.gpus import Stays;"
        f"run_local([Stays(Path({str(note)!r}), gpus=0.25)], items(0), mps='start')"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as driver:
        wait_until(note.exists, running=driver)
        assert len(stand_in.living(program)) == 2
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not stand_in.living(program))
    wait_until(lambda: not list(tmp_path.glob("gpuexec-mps-*")))


def test_mps_that_does_not_start_ends_the_run_before_it_begins(nvml_node, program: Path, monkeypatch):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    monkeypatch.setenv("MPS_STAND_IN", "refuses")
    error = run(OnGpu(gpus=0.25), mps="start", raises=ResourcesError).error
    assert "Cannot create the pipes" in str(error)
    monkeypatch.setenv("PATH", "")
    run(OnGpu(gpus=0.25), mps="start", raises=ConfigurationError)


def test_mps_that_runs_already_is_used(nvml_node, program: Path, tmp_path: Path, monkeypatch):
    nvml_node(nodes.node(nodes.gpu(0, 80, compute_mode="exclusive_process")))
    daemon = mps_daemon.MpsDaemon([nodes.uuid(0)], "of-another", os.environ)
    daemon.start()
    try:
        for name, value in daemon.variables.items():
            monkeypatch.setenv(name, value)
        ran = run(ReportsEnvironment(gpus=0.5), mps="start")
        assert len(stand_in.living(program)) == 2
    finally:
        daemon.close()
    assert "2 × gpus=0.5" in ran.report.stages[0].plan_reason
    assert ran.data[0]["CUDA_MPS_PIPE_DIRECTORY"] == daemon.variables["CUDA_MPS_PIPE_DIRECTORY"]
    assert ran.data[0]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert any("that runs already" in str(note) for note in ran.report.notes)


def test_without_a_daemon_auto_sets_nothing_and_says_so(nvml_node, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    ran = run(ReportsEnvironment(gpus=0.5, workers=1), mps="auto")
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in ran.data[0]
    assert any("no control daemon of MPS runs" in str(note) for note in ran.report.notes)


# ---- leases --------------------------------------------------------------------------------------------

TWO_RUNS = """
import json, sys, time
from tests.process.running import local_executor
from tests.process.stages import items
from tests.process.stages.gpus import OnGpu
executor = local_executor()
for line in sys.stdin:
    time.sleep(max(0.0, float(line) - time.time()))
    results = executor.execute_iter([OnGpu(workers=1, gpus=1)], items(0))
    chosen = next(results).data["visible"]
    print(chosen, flush=True)
    sys.stdin.readline()  # the other has chosen too
    results.close()
    print("closed", flush=True)
"""
TRIES = max(3, round(5 * float(os.environ.get("GPUEXEC_EXAMPLES", "1"))))


@pytest.mark.timeout(60 + 3 * TRIES)
def test_two_runs_started_50_ms_apart_never_share_a_gpu(nvml_node):
    """GPUEXEC_EXAMPLES=20 makes it 100 tries. Nothing shows on the GPUs while models would be loaded."""
    nvml_node(nodes.node(nodes.gpu(0), nodes.gpu(1)))
    pair = [
        subprocess.Popen([sys.executable, "-c", TWO_RUNS], stdin=-1, stdout=-1, text=True, cwd=ROOT) for _ in range(2)
    ]
    try:
        for _ in range(TRIES):
            now = time.time() + 0.02
            for number, process in enumerate(pair):
                process.stdin.write(f"{now + 0.05 * number}\n")
                process.stdin.flush()
            chosen = [process.stdout.readline() for process in pair]
            assert set(chosen) == {f"{nodes.uuid(0)}\n", f"{nodes.uuid(1)}\n"}
            for process in pair:
                process.stdin.write("go\n")
                process.stdin.flush()
            assert [process.stdout.readline() for process in pair] == ["closed\n", "closed\n"]
    finally:
        for process in pair:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def start_run(note: Path, pipeline: str, **resources: float) -> subprocess.Popen[bytes]:
    """Start a run of a pipeline with this name, in a process of its own, whose set-up waits."""
    code = (
        "from pathlib import Path; from gpuexec import Pipeline; from tests.process.running import local_executor;"
        "from tests.process.stages import items; from tests.process.stages.gpus import Stays;"
        f"Pipeline({pipeline!r}, stages=[Stays(Path({str(note)!r}), **{resources!r})])"
        ".run(local_executor(), initial_tasks=items(0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until(lambda: note.exists() or process.poll() is not None)
    return process


def test_the_holder_of_a_lease_is_named(nvml_node, tmp_path: Path):
    nvml_node(nodes.node(nodes.gpu(0)))
    with start_run(tmp_path / "other", "embed", gpus=0.5) as other:
        try:
            who = f"pid {other.pid}, pipeline 'embed'"
            error = run(OnGpu(gpus=0.6), raises=ResourcesError).error
            assert who in str(error) or any(who in note for note in getattr(error, "__notes__", ()))
            listed = run_command("gpus", COLUMNS="80").stdout
            assert f"leased: 0.5 of it by {who}" in listed
            assert max(map(len, listed.splitlines())) <= 80
            assert f"0.5 of it by {who}" in " ".join(run_command("gpus", COLUMNS="200").stdout.split())
            (gpu,) = json.loads(run_command("gpus", "--json").stdout)
            assert gpu["leases"][0]["holder"]["pipeline"] == "embed"
        finally:
            other.kill()


def test_runs_that_wait_are_served_in_turn(nvml_node, tmp_path: Path, monkeypatch):
    """The second would fit as soon as the first does; it waits all the same, until the first has its GPUs."""
    nvml_node(nodes.node(nodes.gpu(0)))
    order: list[str] = []

    def waits(name: str, **resources: float) -> threading.Thread:
        def wait() -> None:
            run(OnGpu(workers=1, name=name, **resources), busy_gpus="wait", busy_gpu_timeout_s=60)
            order.append(name)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    folder = lease_folder.LeaseFolder.open()
    with start_run(tmp_path / "other", "embed", gpus=0.5) as other:
        try:
            first = waits("whole", gpus=1)
            wait_until(lambda: len(list(folder.held(".waits"))) == 1)
            second = waits("half", gpus=0.5)
            wait_until(lambda: len(list(folder.held(".waits"))) == 2)
            error = run(OnGpu(gpus=0.5), busy_gpus="wait", busy_gpu_timeout_s=0, raises=GpusBusy).error
            assert "2 run(s) of gpuexec have waited longer" in str(error)
            assert run(OnGpu(gpus=0.5, workers=1)).tasks, "who does not wait takes what is free"
        finally:
            other.kill()
    first.join()
    second.join()
    assert order == ["whole", "half"]
    assert list(folder.held(".waits")) == []
