"""Calls into the driver library that do not return. The library is simulated: it holds its lock while a call hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.errors import ConfigurationError, NvmlHangs, NvmlUnavailable
from gpuexec.hardware import nvml, nvml_calls
from gpuexec.hardware.inventory import read_node
from gpuexec.hardware.nvml_errors import with_remedy
from gpuexec.hardware.provenance import contamination, read_provenance
from tests.nvml_sim import nodes
from tests.nvml_sim.simulator import SimulatedNode
from tests.process.waiting import wait_until

LIMIT_S = 0.2
SOON_S = 5.0  # far more than the limit, for slow machines

NODE_CALLS = ["nvmlInitWithFlags", "nvmlDeviceGetCount", "nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion"]
# What a plan needs, in the order in which it is read of each GPU.
NEEDED_CALLS = [
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetName",
]
SLICE_CALLS = [
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
]
OTHER_CALLS = [
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetPciInfo",
    "nvmlDeviceGetCpuAffinity",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetNvLinkRemotePciInfo",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetP2PStatus",
]
STATE_CALLS = [
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetEnforcedPowerLimit",
]


@pytest.fixture
def node(nvml_node, monkeypatch) -> Iterator[SimulatedNode]:
    """Two linked GPUs and one with MIG slices; calls that hang are let go at the end."""
    slices = nodes.mig()["gpus"][0]["mig"]
    made = nvml_node(
        nodes.node(
            nodes.gpu(0, nvlinks=[1], numa_node=0),
            nodes.gpu(1, nvlinks=[0], numa_node=0),
            nodes.gpu(2, mig=slices),
            topology={"default": "host_bridge", "pairs": []},
        )
    )
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", str(LIMIT_S))
    yield made
    made.release()
    wait_until(lambda: nvml_calls.hung_call() is None)
    wait_until(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpuexec-nvml"]


@contextlib.contextmanager
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S


def calls_of(node: SimulatedNode, act: Callable[[], Any]) -> set[str]:
    """The functions that ``act`` calls, without their versions."""
    log = node.path.with_suffix(".calls")
    log.unlink(missing_ok=True)
    node.change(lambda d: d.update(call_log=str(log)))
    act()
    node.change(lambda d: d.pop("call_log"))
    return {line.split()[1].partition("_v")[0] for line in log.read_text().splitlines()}


def test_the_calls_tried_here_are_all_that_a_listing_and_a_reading_make(node):
    listed = {*NODE_CALLS, *NEEDED_CALLS, *SLICE_CALLS, *OTHER_CALLS, "nvmlShutdown"}
    assert calls_of(node, nvml.list_gpus) == listed
    devices = [nodes.uuid(1)]
    assert calls_of(node, lambda: read_provenance(devices)) - listed == {*STATE_CALLS} - listed
    assert calls_of(node, lambda: nvml.memory_used(devices)) - listed == {"nvmlDeviceGetHandleByUUID"}


@pytest.mark.parametrize("call", NEEDED_CALLS)
def test_a_hang_that_costs_a_gpu_keeps_those_before_it_and_names_call_and_gpu(node, call):
    node.hang(call, gpu=1)
    with soon():
        listing = nvml.list_gpus()
    assert call in listing.hang
    assert "GPU 1" in listing.hang
    first, second, third = listing.gpus
    assert (first.uuid, first.memory_total_bytes) == (nodes.uuid(0), 80 * nodes.GIB)
    assert listing.hang in second.unknown.values()
    assert third.unknown == {"handle": listing.hang}
    assert (third.uuid, third.lost) == (None, False)


@pytest.mark.parametrize("call", SLICE_CALLS)
def test_a_hang_at_a_slice_names_its_gpu(node, call):
    node.hang(call, gpu=2)
    with soon():
        listing = nvml.list_gpus()
    assert call in listing.hang
    assert "GPU 2" in listing.hang
    assert [gpu.uuid for gpu in listing.gpus] == [nodes.uuid(i) for i in range(3)]


@pytest.mark.parametrize("call", OTHER_CALLS)
def test_a_hang_in_what_plans_can_do_without_costs_no_gpu(node, call):
    node.hang(call, gpu=1)
    with soon():
        listing = nvml.list_gpus()
    assert call in listing.hang
    assert "GPU " in listing.hang
    assert [gpu.uuid for gpu in listing.gpus] == [nodes.uuid(i) for i in range(3)]
    assert [gpu.memory_total_bytes for gpu in listing.gpus] == [80 * nodes.GIB] * 3
    assert len(listing.gpus[2].mig_slices) == 3


def test_a_library_that_does_not_initialise_or_count(node):
    node.hang("nvmlInitWithFlags")
    with soon(), pytest.raises(NvmlHangs, match="nvmlInit does not return"):
        nvml.list_gpus()
    with soon():
        made = read_node()
    assert "nvmlInit" in made.hang
    assert made.no_gpus_reason == with_remedy(made.hang)
    node.release()
    wait_until(lambda: not threads())
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()  # what was initialised too late was shut down
    node.hang("nvmlDeviceGetCount")
    with soon(), pytest.raises(NvmlUnavailable, match="nvmlDeviceGetCount does not return"):
        nvml.list_gpus()


@pytest.mark.parametrize("call", ["nvmlShutdown", "nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion"])
def test_a_hang_that_concerns_no_gpu_costs_none(node, call):
    node.hang(call)
    with soon():
        listing = nvml.list_gpus()
    assert call in listing.hang
    assert "GPU" not in listing.hang.replace(call, "")
    assert [gpu.memory_total_bytes for gpu in listing.gpus] == [80 * nodes.GIB] * 3


def test_no_further_call_is_made_until_the_one_that_hangs_has_returned(node, monkeypatch):
    node.hang("nvmlDeviceGetName", gpu=0)
    hang = nvml.list_gpus().hang
    with soon(), pytest.raises(NvmlHangs) as caught:
        nvml.list_gpus()
    assert str(caught.value) == hang
    assert nvml.memory_used([nodes.uuid(0)]) == {}
    assert len(threads()) == 1, "the one that hangs"
    node.release()
    wait_until(lambda: nvml_calls.hung_call() is None)
    listing = nvml.list_gpus()
    assert listing.hang is None
    assert not [gpu.index for gpu in listing.gpus if gpu.name is None]


@pytest.mark.parametrize("call", [*NODE_CALLS, *NEEDED_CALLS, *SLICE_CALLS, *OTHER_CALLS, "nvmlShutdown"])
def test_ctrl_c_ends_the_wait_for_any_call(node, monkeypatch, call):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "100")
    node.hang(call)

    def interrupt() -> None:
        wait_until(node.hung_log.exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with soon(), pytest.raises(KeyboardInterrupt):
        nvml.list_gpus()
    thread.join()


def test_a_call_that_ctrl_c_cut_short_may_still_return_in_time(node, monkeypatch):
    test_ctrl_c_ends_the_wait_for_any_call(node, monkeypatch, "nvmlDeviceGetName")
    threading.Timer(0.2, node.release).start()
    with soon():
        assert nvml.list_gpus().hang is None


def test_no_thread_is_left_after_a_session(node):
    with nvml_calls.session():
        assert len(threads()) == 1
    assert not threads()


@pytest.mark.parametrize("call", [*NEEDED_CALLS[:2], *STATE_CALLS])
def test_a_reading_before_or_after_a_run_is_given_up_and_told_once(node, call):
    devices = [nodes.uuid(0), nodes.uuid(1)]
    before = read_provenance(devices)
    assert before.hang is None
    node.hang(call, gpu=1)
    with soon():
        after = read_provenance(devices)
    assert call in after.hang
    assert "GPU 1" in after.hang
    assert [gpu.index for gpu in after.gpus] in ([0], [0, 1])
    notes = contamination(before, after, [])
    assert [note for note in notes if call in note] == [
        f"not everything could be read of the GPUs after the run: {with_remedy(after.hang)}"
    ]
    (both,) = contamination(after, after, [])
    assert "before the run and after the run" in both


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetComputeRunningProcesses"])
def test_the_memory_of_a_process_is_unknown_while_a_call_hangs(node, call):
    with nvml_calls.session() as reader:
        if call == "nvmlDeviceGetComputeRunningProcesses":
            own = nvml.ProcessMemory(reader, nodes.uuid(0), os.getpid())
        node.hang(call)
        with soon():
            if call == "nvmlDeviceGetHandleByUUID":
                own = nvml.ProcessMemory(reader, nodes.uuid(0), os.getpid())
            assert own.read() is MemoryAbsence.NVML_HANGS
        node.release()
        wait_until(lambda: nvml_calls.hung_call() is None)
        assert own.read() is MemoryAbsence.NOT_LISTED


@pytest.mark.parametrize("value", ["", "fast", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_no_time(node, monkeypatch, value):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", value)
    with pytest.raises(ConfigurationError, match="GPUEXEC_NVML_TIMEOUT_S="):
        nvml.list_gpus()


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetUUID", "nvmlShutdown"])
def test_a_process_ends_although_a_call_does_not_return(node, call):
    node.hang(call)
    code = "from gpuexec.hardware.inventory import read_node; import os; print(read_node().hang)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert call.removesuffix("WithFlags") in done.stdout
    assert done.stderr == ""


def test_a_forked_child_answers_at_once(node):
    node.hang("nvmlDeviceGetUUID")
    code = (
        "import os, time\n"
        "from gpuexec.hardware.inventory import read_node\n"
        "read_node()\n"
        "child = os.fork()\n"
        "began = time.monotonic()\n"
        "if child == 0:\n"
        "    os._exit(0 if 'nvmlDeviceGetUUID' in read_node().hang and time.monotonic() - began < 0.1 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "0\n"


class Interrupted(Exception):
    """What the handler of a signal raises."""


def interrupt(_number: int, _frame: Any) -> None:
    raise Interrupted


def answer(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


moment = st.sampled_from([0.0, 0.001, 0.009, 0.01, 0.011, 0.02])


@settings(max_examples=50)
@given(steps=st.lists(st.tuples(moment, st.none() | moment), max_size=10))
def test_whenever_calls_return_and_signals_come_no_call_gets_the_answer_of_another(steps):
    """The limit is 0.01 s: calls return just before and just after they are given up, or are cut short by a signal."""
    reader = nvml_calls.Reader(pynvml, 0.01)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for number, (seconds, signal_at) in enumerate(steps):
            timer = threading.Timer(signal_at or 0, os.kill, [os.getpid(), signal.SIGUSR1])
            try:
                if signal_at is not None:
                    timer.start()
                with contextlib.suppress(NvmlHangs):
                    assert reader.call(answer, number, seconds) == number
                if signal_at is not None:
                    timer.join()
                    time.sleep(0.001)  # the handler runs here if it has not run during the call
            except Interrupted:
                timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
        reader.close()
    wait_until(lambda: nvml_calls.hung_call() is None)
    wait_until(lambda: not threads())


def test_a_system_that_refuses_a_thread(node, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert "can't start new thread" in read_node().no_gpus_reason
