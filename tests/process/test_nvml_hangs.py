"""Commands and runs while a call into the driver library does not return. The library is simulated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gpuexec import ResourcesError
from gpuexec.hardware import nvml_calls
from gpuexec.hardware.nvml_errors import with_remedy
from tests.nvml_sim import nodes
from tests.nvml_sim.simulator import SimulatedNode
from tests.process.running import ROOT, local_executor, logged, run_command, run_local
from tests.process.stages import Item, items
from tests.process.stages.gpus import GrowsOnNode, Hangs, OnGpu
from tests.process.waiting import ENDS_WITHIN_S, wait_until

IN_TIME_S = 3.0 + 15.0  # the limit, and what a loaded machine takes besides


@pytest.fixture
def node(nvml_node, monkeypatch) -> Iterator[SimulatedNode]:
    """Two GPUs; calls that hang are let go at the end."""
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "1")
    made = nvml_node(nodes.node(nodes.gpu(0), nodes.gpu(1)))
    yield made
    made.release()
    wait_until(lambda: nvml_calls.hung_call() is None)


def told(node: SimulatedNode, call: str, gpu: str = "") -> str:
    name = "nvmlInit" if call == "nvmlInitWithFlags" else call
    return f"the NVML call {name}{f' for {gpu}' if gpu else ''} does not return"


def test_the_list_of_gpus_keeps_what_was_read(node):
    node.hang("nvmlDeviceGetMemoryInfo", gpu=1)
    done = run_command("gpus")
    assert done.returncode == 1
    assert nodes.uuid(0) in done.stdout
    assert "79.5 GiB" in done.stdout
    assert f"error: {with_remedy(told(node, 'nvmlDeviceGetMemoryInfo', 'GPU 1'))}" in done.stderr
    listed = json.loads(run_command("gpus", "--json", "--full").stdout)
    assert listed["hang"] == told(node, "nvmlDeviceGetMemoryInfo", "GPU 1")
    assert listed["gpus"][1]["unknown"]["memory_total_bytes"] == listed["hang"]


def test_without_the_variable_an_answer_comes_within_seconds(node, monkeypatch):
    monkeypatch.delenv("GPUEXEC_NVML_TIMEOUT_S")
    node.hang("nvmlInitWithFlags")
    began = time.monotonic()
    done = run_command("gpus")
    assert time.monotonic() - began < IN_TIME_S
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {with_remedy(told(node, 'nvmlInitWithFlags'))}" in done.stderr


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo"])
def test_a_pipeline_for_gpus_that_cannot_be_read_is_refused(node, command, call):
    node.hang(call, gpu=None if call == "nvmlInitWithFlags" else 0)
    done = run_command(command, "tests.process.stages.gpus:planned")
    assert done.returncode == 1
    assert "stage 'on_gpu' asks for gpu_memory_gb=20" in done.stderr
    assert with_remedy(told(node, call, "" if call == "nvmlInitWithFlags" else "GPU 0")) in done.stderr


def test_gpus_that_can_be_read_are_used_if_the_user_says_so(node, monkeypatch):
    node.hang("nvmlDeviceGetMigMode", gpu=1)
    error = run_local([OnGpu(gpus=1)], items(0), raises=ResourcesError).error
    assert "GPU 1 cannot be read: " + told(node, "nvmlDeviceGetMigMode", "GPU 1") in str(error)
    assert "CUDA_VISIBLE_DEVICES=0 in a new process does without it" in str(error)
    for value in ("1", nodes.uuid(1), f"{nodes.uuid(0)},{nodes.uuid(1)}"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        run_local([OnGpu(gpus=1)], items(0), raises=ResourcesError)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    done = run_command("run", "tests.process.stages.gpus:planned")
    assert (done.returncode, "3 tasks came out" in done.stderr) == (0, True), done
    assert told(node, "nvmlDeviceGetMigMode", "GPU 1") in done.stderr


def test_a_first_gpu_that_hangs_can_be_done_without(node):
    node.hang("nvmlDeviceGetHandleByIndex", gpu=0)
    done = run_command("run", "tests.process.stages.gpus:planned")
    assert "GPU 0, 1 cannot be read" in done.stderr
    assert "CUDA_VISIBLE_DEVICES=1 in a new process does without it" in done.stderr
    done = run_command("run", "tests.process.stages.gpus:planned", CUDA_VISIBLE_DEVICES="1")
    assert (done.returncode, "3 tasks came out" in done.stderr) == (0, True), done


def test_gpus_behind_one_that_hangs_are_not_found_by_uuid_either(node, monkeypatch):
    node.hang("nvmlDeviceGetHandleByIndex", gpu=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nodes.uuid(1))
    error = run_local([OnGpu(gpus=1)], items(0), raises=ResourcesError).error
    assert told(node, "nvmlDeviceGetHandleByIndex", "GPU 0") in str(error)


@pytest.mark.parametrize("call", ["nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetPciInfo", "nvmlShutdown"])
def test_a_hang_in_what_a_plan_can_do_without_only_warns(node, call):
    node.hang(call)
    with logged("WARNING") as messages:
        ran = run_local([OnGpu(gpus=1)], items(*range(6)))
    assert len(ran.tasks) == 6
    assert ran.report.gpus_before.hang == ran.report.gpus_after.hang
    mentions = [message for message in messages if call in message]
    assert [message.partition(":")[0] for message in mentions] == [
        "some readings of the GPUs are unknown",
        "not everything could be read of the GPUs before the run and after the run",
    ]


# Made again and again while a run lasts; and made when it ends.
REPEATED = [
    ("nvmlDeviceGetUUID", 0),
    ("nvmlDeviceGetMemoryInfo", 1),
    ("nvmlEventSetWait", None),
    ("nvmlDeviceGetComputeRunningProcesses", None),
    ("nvmlDeviceGetGraphicsRunningProcesses", None),
]
AT_THE_END = [
    ("nvmlInitWithFlags", None),
    ("nvmlDeviceGetCount", None),
    ("nvmlDeviceGetHandleByIndex", 1),
    ("nvmlEventSetFree", None),
    ("nvmlDeviceGetCurrentClocksEventReasons", 0),
    ("nvmlDeviceGetFieldValues", 0),
    ("nvmlDeviceGetClockInfo", 1),
    ("nvmlDeviceGetEnforcedPowerLimit", 1),
    ("nvmlSystemGetDriverVersion", None),
    ("nvmlShutdown", None),
]


@pytest.mark.parametrize(("call", "gpu"), [*REPEATED, *AT_THE_END])
def test_a_hang_that_begins_in_the_middle_of_a_run_does_not_end_it(node, call, gpu):
    began = time.monotonic()
    ran = run_local([Hangs(call, gpu, waits=(call, gpu) in REPEATED)], items(*range(12)))
    assert time.monotonic() - began < IN_TIME_S
    assert ran.data == list(range(12))
    assert not ran.report.failures
    assert {worker.exit_code for worker in ran.report.workers} == {0}
    hang = ran.report.gpus_after.hang
    assert hang.startswith("the NVML call ")
    assert [note for note in ran.report.notes if note.startswith("not everything could be read")] == [
        f"not everything could be read of the GPUs after the run: {with_remedy(hang)}"
    ]
    assert not [note for note in ran.report.notes if note.startswith("not watched") and hang in note], "said once"


@pytest.mark.parametrize("call", ["nvmlDeviceGetMemoryInfo", "nvmlEventSetWait"])
def test_a_hang_is_told_when_it_begins_and_once_more_at_the_end(node, call):
    executor = local_executor(sample_interval_s=None)  # it makes these calls too: either could be the first to hang

    def mentions() -> list[str]:
        return [note for note in executor.last_report.notes if call in note]

    def until_told() -> Iterator[Item]:
        node.hang(call)
        while not mentions():
            yield Item("t", 0)

    assert sum(1 for _ in executor.execute_iter([OnGpu(gpus=1)], until_told()))
    now, closing = mentions()
    assert "the run goes on" in now
    assert closing.startswith("not everything could be read of the GPUs after the run")


def test_readings_of_workers_stop_and_say_why(node):
    ran = run_local([Hangs("nvmlDeviceGetComputeRunningProcesses")], items(*range(12)))
    # Which tasks come after the hang depends on the workers: each has some of them.
    metrics = [key for task in ran.tasks for key in task._stage_perf[-1].custom_metrics]
    assert [key for key in metrics if key.endswith("memory_absent.nvml_hangs")]


def test_memory_around_a_node_setup_is_left_out_while_a_call_hangs(node):
    node.hang("nvmlDeviceGetHandleByUUID")
    ran = run_local([GrowsOnNode(workers=1, gpus=1)], items(0))
    assert ran.report.stages[0].node_setup_gpu_growth_bytes == ()


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ("nvmlInitWithFlags", "before"),
        ("nvmlDeviceGetMemoryInfo", "before"),
        ("nvmlDeviceGetFieldValues", "before"),
        ("nvmlDeviceRegisterEvents", "before"),
        ("nvmlDeviceGetMemoryInfo", "during"),
        ("nvmlDeviceGetComputeRunningProcesses", "during"),
        ("nvmlEventSetWait", "during"),
    ],
)
def test_ctrl_c_ends_a_run_while_a_call_hangs(node, monkeypatch, call, argument):
    monkeypatch.delenv("GPUEXEC_NVML_TIMEOUT_S")
    if argument == "before":
        node.hang(call)
    stage = f"Hangs({call!r}, waits=True)" if argument == "during" else "OnGpu(gpus=1)"
    code = (
        "from tests.process.running import run_local; from tests.process.stages import items\n"
        "from tests.process.stages.gpus import Hangs, OnGpu\n"
        f"run_local([{stage}], items(*range(100_000)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until(node.hung_log.exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
