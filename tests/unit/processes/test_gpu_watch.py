"""The GPU watch with the real pynvml and the simulated driver library; tests wait on its descriptor only."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import threading
import time

import pynvml
import pytest

from gpuexec.hardware import nvml_calls
from gpuexec.hardware.nvml_events import FaultKind, GpuFault
from gpuexec.processes.gpu_watch import GpuWatch
from tests.nvml_sim import nodes
from tests.process.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def watching(nvml_node):
    with contextlib.ExitStack() as stack:

        def watch(description, *uuids):
            node = nvml_node(description)
            return node, stack.enter_context(contextlib.closing(GpuWatch(uuids)))

        yield watch
    assert not watchers()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpuexec-gpu-watch"]


def readable(watch: GpuWatch, timeout: float = 0) -> bool:
    return bool(select.select([watch], [], [], timeout)[0])


def next_faults(watch: GpuWatch) -> list[GpuFault]:
    assert readable(watch, TIMEOUT_S)
    return watch.read()


def test_an_xid_wakes_the_driver(watching):
    node, watch = watching(nodes.eight_nvlink(), *map(nodes.uuid, range(4)))
    assert watch.unwatched == {}
    assert not readable(watch)
    assert watch.read() == [], "read never blocks"
    node.change(lambda d: d["gpus"][2].update(xids=[79]))
    (fault,) = next_faults(watch)
    assert (fault.kind, fault.index, fault.xid, fault.fatal, fault.times) == (FaultKind.XID, 2, 79, True, 1)
    assert not readable(watch)


def test_a_storm_of_equal_events_is_one_fault(watching):
    node, watch = watching(nodes.unequal(), nodes.uuid(0), nodes.uuid(1))
    node.change(lambda d: d["gpus"][0].update(xids=[13] * 500))
    node.change(lambda d: d["gpus"][1].update(xids=[31]))  # reported after all of the first GPU's
    faults = []
    while not any(fault.xid == 31 for fault in faults):
        faults += next_faults(watch)
    assert sum(fault.times for fault in faults if fault.xid == 13) == 500
    assert len(faults) <= 4


def test_a_gpu_lost_in_the_middle_of_a_wait(watching):
    node, watch = watching(nodes.unequal(), *map(nodes.uuid, range(3)))
    node.change(lambda d: d["gpus"][1].update(lost=True))
    (fault,) = next_faults(watch)
    assert (fault.kind, fault.uuid, fault.fatal) == (FaultKind.LOST, nodes.uuid(1), True)
    node.change(lambda d: d["gpus"][2].update(xids=[94]))
    assert [(fault.index, fault.xid) for fault in next_faults(watch)] == [(2, 94)]


def test_a_lost_gpu_is_noticed_without_events(watching):
    description = nodes.small()
    description["gpus"][0]["unsupported"] = ["events"]
    node, watch = watching(description, nodes.uuid(0))
    assert watch.unwatched == {nodes.uuid(0): "XID events: not supported by this GPU"}
    node.change(lambda d: d["gpus"][0].update(lost=True))
    assert [fault.kind for fault in next_faults(watch)] == [FaultKind.LOST]


def test_faults_not_read_before_close_can_be_read_after_it(watching):
    node, watch = watching(nodes.small(), nodes.uuid(0))
    node.change(lambda d: d["gpus"][0].update(xids=[31]))
    assert readable(watch, TIMEOUT_S)
    watch.close()
    watch.close()
    assert [fault.xid for fault in watch.read()] == [31]
    assert watch.read() == []
    assert not watchers()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


@pytest.fixture
def hanging(watching, monkeypatch):
    """A function like ``watching``; calls give up after 1 s, and all return at the end."""
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "1")
    made = []

    def watch(description, *uuids):
        made.append(watching(description, *uuids))
        return made[-1]

    yield watch
    for node, watch_ in made:
        node.release()
        watch_.close()
    wait_until(lambda: nvml_calls.hung_call() is None)


@pytest.mark.parametrize("call", ["nvmlEventSetWait", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
def test_a_call_that_hangs_stops_the_watch_and_when_it_returns_the_watch_goes_on(hanging, call):
    node, watch = hanging(nodes.unequal(), *map(nodes.uuid, range(3)))
    node.hang(call, gpu=None if call == "nvmlEventSetWait" else 1)
    assert readable(watch, TIMEOUT_S)
    assert watch.read() == []
    (notice,) = watch.read_notices()
    assert f"the run goes on: the NVML call {call}" in notice
    assert ("GPU 1 does not return" in notice) == (call != "nvmlEventSetWait")
    assert set(watch.unwatched) == set(map(nodes.uuid, range(3)))
    node.change(lambda d: d["gpus"][2].update(xids=[79]))
    node.release()
    faults, notices = [], []
    while not (faults and notices):
        faults += next_faults(watch)
        notices += watch.read_notices()
    assert [fault.xid for fault in faults] == [79]
    assert set(watch.unwatched) == set(map(nodes.uuid, range(3))), "there was a gap"


def test_a_loss_that_was_found_before_a_call_hangs_is_told(hanging):
    node, watch = hanging(nodes.unequal(), *map(nodes.uuid, range(3)))

    def edit(description):
        description["gpus"][0].update(lost=True)
        description["gpus"][1].update(hang=["nvmlDeviceGetUUID"])

    node.change(edit)
    assert [fault.index for fault in next_faults(watch)] == [0]


@pytest.mark.parametrize(
    "call", ["nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents"]
)
def test_a_watch_that_cannot_begin_says_why(hanging, call):
    description = nodes.unequal()
    description["hang"] = [call]
    _, watch = hanging(description, nodes.uuid(0))
    assert call.removesuffix("WithFlags") in watch.unwatched[nodes.uuid(0)]


@pytest.mark.parametrize("call", ["nvmlEventSetWait", "nvmlEventSetFree", "nvmlShutdown"])
def test_a_watch_ends_although_a_call_hangs(hanging, call):
    node, watch = hanging(nodes.unequal(), nodes.uuid(0))
    node.hang(call)
    began = time.monotonic()
    watch.close()
    assert time.monotonic() - began < 4
    assert call in (nvml_calls.hung_call() or "")


def test_without_a_driver_there_is_a_reason_and_no_thread(watching):
    description = {**nodes.small(), "init_error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    _, watch = watching(description, nodes.uuid(0))
    assert "kernel module is not loaded" in watch.unwatched[nodes.uuid(0)]
    assert not watchers()
    assert not readable(watch)
    assert watch.read() == []


def test_when_no_gpu_can_be_watched_no_thread_runs(watching):
    _, watch = watching(nodes.lost(), nodes.uuid(1))
    assert set(watch.unwatched) == {nodes.uuid(1)}
    assert not watchers()


def test_a_watch_that_is_never_closed_does_not_delay_the_interpreters_exit(nvml_node):
    nvml_node(nodes.small())
    code = (
        "from gpuexec.processes.gpu_watch import GpuWatch\n"
        f"watch = GpuWatch([{nodes.uuid(0)!r}])\n"
        "print(watch.unwatched, watch._thread.is_alive())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{} True\n", "")
