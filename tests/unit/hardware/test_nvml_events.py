"""XID events and lost GPUs over the real pynvml and the simulated driver, in one thread."""

from __future__ import annotations

import contextlib
import dataclasses

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.hardware import nvml
from gpuexec.hardware.nvml_events import CONDEMNING_XIDS, SURVIVABLE_XIDS, FaultKind, GpuEvents, GpuFault
from tests.nvml_sim import nodes, simulator

LONG_MS = 20_000


@pytest.fixture
def watching(nvml_node):
    """Make a node and the events of some of its devices."""
    with contextlib.ExitStack() as stack:

        def watch(description, *uuids):
            node = nvml_node(description)
            events = GpuEvents(stack.enter_context(nvml.session()), uuids)
            stack.callback(events.close)
            return node, events

        yield watch


def raise_xid(node, gpu: int, *xids):
    node.change(lambda d: d["gpus"][gpu].update(xids=[*d["gpus"][gpu].get("xids", []), *xids]))


def lose(node, *gpus: int):
    for gpu in gpus:
        node.change(lambda d, gpu=gpu: d["gpus"][gpu].update(lost=True))


def test_the_tables_do_not_contradict_each_other():
    assert not CONDEMNING_XIDS.keys() & SURVIVABLE_XIDS.keys()


@pytest.mark.parametrize(
    ("xid", "fatal", "message"),
    [
        (79, True, "GPU 1: XID 79 (GPU has fallen off the bus): it must be reset"),
        (31, False, "GPU 1: XID 31 (memory page fault): the GPU itself can still be used"),
        (999, False, "GPU 1: XID 999 (see the NVIDIA XID catalogue)"),
    ],
)
def test_an_xid(watching, xid, fatal, message):
    node, events = watching(nodes.unequal(), nodes.uuid(1), nodes.uuid(2))
    raise_xid(node, 1, xid)
    (fault,) = events.wait(LONG_MS)
    assert (fault.kind, fault.xid, fault.fatal) == (FaultKind.XID, xid, fatal)
    assert (fault.uuid, fault.index, fault.devices) == (nodes.uuid(1), 1, (nodes.uuid(1),))
    assert fault.text.startswith(message)
    assert events.wait(0) == []
    assert events.unwatched == {}


def test_the_text_says_how_often_it_was_reported():
    fault = GpuFault(
        uuid="GPU-0", index=0, kind=FaultKind.XID, devices=(), description="GPU 0: XID 13", fatal=False, xid=13
    )
    assert fault.text == "GPU 0: XID 13"
    assert dataclasses.replace(fault, times=500).text == "GPU 0: XID 13 (reported 500 times)"


def test_gpus_that_are_not_used_are_not_watched(watching):
    node, events = watching(nodes.unequal(), nodes.uuid(1))
    raise_xid(node, 0, 79)
    lose(node, 2)
    assert events.wait(0) == []
    assert events.look_for_lost() == []


def test_an_event_of_the_whole_gpu_concerns_all_its_slices(watching):
    node, events = watching(nodes.mig(), nodes.uuid(1, "MIG"), nodes.uuid(2, "MIG"))
    raise_xid(node, 0, 48)
    (fault,) = events.wait(LONG_MS)
    assert (fault.uuid, fault.devices) == (nodes.uuid(0), (nodes.uuid(1, "MIG"), nodes.uuid(2, "MIG")))


def test_an_event_of_one_slice_concerns_that_slice(watching):
    node, events = watching(nodes.mig(), nodes.uuid(1, "MIG"), nodes.uuid(2, "MIG"))
    raise_xid(node, 0, [94, 3], [94, 1])
    (fault,) = events.wait(LONG_MS)
    assert (fault.uuid, fault.devices) == (nodes.uuid(0), (nodes.uuid(2, "MIG"),))
    assert events.wait(0) == [], "instance 1 is another slice's, which is not ours"


def test_a_lost_gpu_ends_the_wait_and_the_others_stay_watched(watching):
    node, events = watching(nodes.eight_nvlink(), *map(nodes.uuid, range(3)))
    raise_xid(node, 0, 79)
    lose(node, 0)
    assert [fault.xid for fault in events.wait(LONG_MS)] == [79], "its last words come first"
    (fault,) = events.wait(LONG_MS)
    assert (fault.kind, fault.uuid, fault.index, fault.fatal) == (FaultKind.LOST, nodes.uuid(0), 0, True)
    assert "GPU 0 is lost" in fault.text
    assert events.wait(0) == [], "a loss is reported once"
    raise_xid(node, 2, 13)
    assert [fault.index for fault in events.wait(LONG_MS)] == [2]


def test_events_of_other_gpus_survive_the_move_to_a_new_event_set(watching):
    node, events = watching(nodes.eight_nvlink(), *map(nodes.uuid, range(3)))
    raise_xid(node, 0, 79)
    raise_xid(node, 1, 74, 74)
    lose(node, 0)
    found = events.look_for_lost()
    assert [(fault.index, fault.xid) for fault in found] == [(0, None), (0, 79), (1, 74), (1, 74)]
    assert events.wait(0) == []


def test_when_all_are_lost_nothing_is_left_to_wait_for(watching):
    node, events = watching(nodes.unequal(), *map(nodes.uuid, range(3)))
    lose(node, 0, 1, 2)
    assert [fault.index for fault in events.wait(LONG_MS)] == [0, 1, 2]
    assert (events.gpus, events.can_wait) == ((), False)


def test_a_gpu_without_events_is_still_checked(watching):
    description = nodes.unequal()
    description["gpus"][1]["unsupported"] = ["events"]
    node, events = watching(description, nodes.uuid(0), nodes.uuid(1))
    assert events.unwatched == {nodes.uuid(1): "XID events: not supported by this GPU"}
    lose(node, 1)
    (fault,) = events.look_for_lost()
    assert fault.kind is FaultKind.LOST
    raise_xid(node, 0, 13)
    assert [fault.index for fault in events.wait(LONG_MS)] == [0]


def test_a_device_that_is_not_there_and_one_that_is_lost_already(watching):
    _, events = watching(nodes.lost(), nodes.uuid(0), nodes.uuid(1), nodes.uuid(7))
    assert [gpu.index for gpu in events.gpus] == [0]
    assert set(events.unwatched) == {nodes.uuid(1), nodes.uuid(7)}
    assert "GPU 1: the GPU is lost" in events.unwatched[nodes.uuid(1)]


def test_a_wait_that_fails_for_another_reason_is_given_up_and_says_so(watching):
    node, events = watching(nodes.unequal(), nodes.uuid(0))
    node.change(lambda d: d.update(event_wait_error=pynvml.NVML_ERROR_UNKNOWN))
    assert events.wait(LONG_MS) == []
    assert not events.can_wait
    assert "NVML stopped reporting events (NVML error 999, unknown error: " in events.unwatched[nodes.uuid(0)]
    lose(node, 0)
    assert [fault.kind for fault in events.look_for_lost()] == [FaultKind.LOST]


step = st.one_of(
    st.tuples(st.just("xid"), st.integers(0, 2), st.sampled_from([13, 79, 999])),
    st.tuples(st.just("lose"), st.integers(0, 2), st.none()),
    st.tuples(st.just("hear"), st.none(), st.none()),
)


@given(steps=st.lists(step, max_size=12))
def test_whatever_happens_each_loss_is_reported_once_and_each_event_of_a_living_gpu(
    nvml_library, tmp_path_factory, steps
):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("node") / "node.json"
        patch.setenv(simulator.VARIABLE, str(path))
        node = simulator.SimulatedNode(path, nodes.unequal())
        with nvml.session() as library:
            events = GpuEvents(library, [nodes.uuid(i) for i in range(3)])
            heard, raised, lost = [], [], set()
            for what, gpu, xid in [*steps, *[("hear", None, None)] * (len(steps) + 4)]:
                if what == "xid" and gpu not in lost:
                    raise_xid(node, gpu, xid)
                    raised.append((gpu, xid))
                elif what == "lose" and gpu not in lost:
                    lose(node, gpu)
                    lost.add(gpu)
                elif what == "hear" and events.can_wait:
                    heard += events.wait(0)
            events.close()
    assert sorted(fault.index for fault in heard if fault.kind is FaultKind.LOST) == sorted(lost)
    assert sorted((f.index, f.xid) for f in heard if f.kind is FaultKind.XID) == sorted(raised)
    assert all(fault.fatal == (fault.kind is FaultKind.LOST or fault.xid == 79) for fault in heard)
