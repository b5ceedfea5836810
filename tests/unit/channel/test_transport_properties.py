"""Tasks all the way: pickled, stored, sent over a real socket with descriptors, divided into batches, unpickled.

What arrives equals what was sent, is writable, and belongs to its receiver alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from gpuexec.channel import codec, payload_store
from gpuexec.channel.block_sizer import BlockSizer
from gpuexec.channel.messages import Results, Work
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.segments import PAGE, SegmentPool
from gpuexec.channel.wire import BlockingConnection, ConnectionLost, Receiver, Sender
from gpuexec.worker import outbox as outbox_module
from gpuexec.worker.inbox import Inbox
from gpuexec.worker.outbox import Outbox
from tests.process.stages import Item

DTYPES = [
    np.dtype(name) for name in ("?", "u1", "i8", ">i4", "f2", "f4", "f8", "c8", "U3", "S4", "M8[ns]", "m8[s]", "O")
]
DTYPES.append(np.dtype([("a", "i4"), ("b", "f8", (2,)), ("c", "U2")], align=True))


@dataclass
class Box:
    """A class of the user's between a task and its arrays."""

    left: Any
    right: Any = None
    tags: dict[str, Any] = field(default_factory=dict)


@st.composite
def arrays(draw):
    """An array of any dtype, seen in any way: as it is, in Fortran's order, backwards, a part of it, read-only."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(np_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    elements = st.none() | st.integers() | st.text(max_size=3) if dtype.hasobject else None
    array = draw(np_st.arrays(dtype, shape, elements=elements, fill=st.nothing() if dtype.hasobject else None))
    layouts = {
        "as it is": lambda a: a,
        "fortran": np.asfortranarray,
        "transposed": lambda a: a.T,
        "backwards": lambda a: a[::-1] if a.ndim else a,
        "strided": lambda a: a[..., ::2] if a.ndim else a,
        "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape)),
    }
    array = layouts[draw(st.sampled_from(sorted(layouts)))](array)
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@st.composite
def views_of_one_buffer(draw):
    buffer = np.arange(draw(st.integers(1, 50)), dtype="i4")
    cut = draw(st.integers(0, len(buffer)))
    return Box(buffer[:cut], buffer[cut:], {"whole": buffer, "bytes": buffer.view(np.uint8)})


@st.composite
def tables(draw):
    rows = draw(st.integers(0, 6))
    words = draw(st.lists(st.none() | st.text(max_size=5), min_size=rows, max_size=rows))
    numbers = draw(st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=rows, max_size=rows))
    columns = {
        "word": pa.array(words, pa.string()),
        "number": pa.array(numbers, pa.int64()),
        "kind": pa.array(words, pa.string()).dictionary_encode(),
        "list": pa.array([[n] if n else None for n in numbers], pa.list_(pa.int64())),
    }
    table = pa.table(columns)
    if draw(st.booleans()):
        table = pa.concat_tables([table, table])
    start = draw(st.integers(0, rows))
    return draw(st.sampled_from([table, table.slice(start), table.slice(start, 1)]))


frames = st.builds(
    lambda table, drop: table.drop_columns(["list"]).to_pandas().iloc[drop:], tables(), st.integers(0, 2)
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=40)
leaves = plain | st.binary(max_size=40).map(bytearray) | arrays() | views_of_one_buffer() | tables() | frames
graphs = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.builds(Box, inner, inner)
        | st.builds(lambda one: Box(one, one, {"again": one}), inner)
        | st.builds(lambda data: Item("nested", data), inner)
    ),
    max_leaves=5,
)
tasks = st.builds(lambda data, meta: Item("d", data, _metadata={"meta": meta}), graphs, graphs)


def same(sent: Any, arrived: Any) -> bool:
    """Return whether two values are equal and of the same type and form; NaN equals NaN."""
    if type(sent) is not type(arrived):
        return False
    match sent:
        case np.ndarray():
            return _same_array(sent, arrived)
        case pa.Table():
            return sent.schema == arrived.schema and sent.equals(arrived)
        case pd.DataFrame():
            pd.testing.assert_frame_equal(sent, arrived)
            return True
        case list() | tuple():
            return len(sent) == len(arrived) and all(map(same, sent, arrived))
        case dict():
            return list(sent) == list(arrived) and all(same(sent[key], arrived[key]) for key in sent)
        case float():
            return sent.hex() == arrived.hex()
        case Box() | Item():
            return same(vars(sent), vars(arrived))
    return bool(sent == arrived)


def _same_array(sent: np.ndarray, arrived: np.ndarray) -> bool:
    # numpy's own pickling brings an array that is not contiguous into the machine's byte order.
    sent = sent.astype(sent.dtype.newbyteorder("="))
    arrived = arrived.astype(arrived.dtype.newbyteorder("="))
    if (sent.dtype, sent.shape) != (arrived.dtype, arrived.shape):
        return False
    if sent.dtype.hasobject:
        return same(sent.tolist(), arrived.tolist())
    return sent.tobytes() == arrived.tobytes()


def writables(value: Any) -> list[np.ndarray | bytearray]:
    """Return every array and bytearray in a value."""
    match value:
        case np.ndarray() | bytearray():
            return [value]
        case list() | tuple():
            return [found for each in value for found in writables(each)]
        case dict():
            return writables(list(value.values()))
        case Box() | Item():
            return writables(vars(value))
    return []


def scribble(value: Any) -> None:
    """Overwrite all memory of an object, as a stage may."""
    for memory in writables(value):
        if isinstance(memory, bytearray):
            memory[:] = b"\xff" * len(memory)
        else:
            assert memory.flags.writeable
            memory[...] = np.zeros((), memory.dtype)
    for frame in [value.data] if isinstance(getattr(value, "data", None), pd.DataFrame) else []:
        frame["number"] = 0


class Line(contextlib.AbstractContextManager):
    """One worker as its driver sees it: a socket, and an inbox behind it."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._sender, self._receiver = Sender(self._ours), Receiver(self._theirs)
        self.released: list[Any] = []
        self.inbox = Inbox(self.released.append)
        self._at: tuple[int, int] | None = None  # block and task where the last slice ended

    def send(self, batches, stored):
        """Send one message of several batches, each a list of (block, task) positions."""
        slices, sent = [], []
        for places in batches:
            for block, start, stop in runs_of(places):
                if self._at == (block, start):
                    slices.append([start, stop, 0])
                else:
                    payload, size = stored[block]
                    slices.append(None if (start, stop) == (0, size) else [start, stop])
                    sent.append(payload)
                self._at = (block, stop)
        self._sender.put(Work(list(range(len(batches))), [len(b) for b in batches], slices, payloads=tuple(sent)))
        received = []
        while not received:
            self._sender.flush()
            with contextlib.suppress(BlockingIOError):
                received = self._receiver.receive()
        self.inbox.accept(*received)

    def __exit__(self, *_):
        for segment in self.released:
            segment.close()
        self._receiver.close()
        self._ours.close()
        self._theirs.close()


def runs_of(places):
    found = []
    for block, task in places:
        if found and found[-1][0] == block and found[-1][2] == task:
            found[-1] = (block, found[-1][1], task + 1)
        else:
            found.append((block, task, task + 1))
    return found


@st.composite
def deliveries(draw):
    """Draw blocks of tasks, cut into batches, each for one of two workers, in messages of several batches."""
    blocks = draw(st.lists(st.lists(tasks, min_size=1, max_size=3), min_size=1, max_size=3))
    places = [(p, i) for p, block in enumerate(blocks) for i in range(len(block))]
    size = draw(st.integers(1, 4))
    batches = [places[i : i + size] for i in range(0, len(places), size)]
    workers = draw(st.lists(st.integers(0, 1), min_size=len(batches), max_size=len(batches)))
    together = draw(st.integers(1, 3))
    return blocks, batches, workers, together


@settings(max_examples=60)
@given(deliveries(), st.sampled_from([0, 600, payload_store.INLINE_LIMIT]))
def test_what_arrives_equals_what_was_sent_and_belongs_to_its_receiver(delivery, inline_limit):
    blocks, batches, workers, together = delivery
    pool = SegmentPool()
    with mock.patch.object(payload_store, "INLINE_LIMIT", inline_limit):
        stored = [(store(codec.encode(block), pool), len(block)) for block in blocks]
    with Line() as one, Line() as other:
        _deliver(blocks, batches, workers, together, stored, (one, other))
    pool.close()


def _deliver(blocks, batches, workers, together, stored, lines):
    arrived: list[Item] = []
    for number, line in enumerate(lines):
        own = [batch for batch, worker in zip(batches, workers, strict=True) if worker == number]
        for i in range(0, len(own), together):
            line.send(own[i : i + together], stored)
            for places in own[i : i + together]:
                expected = [blocks[p][i] for p, i in places]
                received, size = line.inbox.take(len(places))
                assert same(expected, received)
                assert size > 0
                assert not any(np.may_share_memory(new, old) for new in memories(received) for old in memories(arrived))
                for task in received:
                    scribble(task)
                again = line.inbox.take_again()
                assert same(expected, again), "another attempt gets what was sent"
                arrived += received
                line.inbox.done()
    for batch, worker in zip(batches, workers, strict=True):  # a worker died: the other one processes its batches
        other = lines[1 - worker]
        other.send([batch], stored)
        received, _ = other.inbox.take(len(batch))
        assert same([blocks[p][i] for p, i in batch], received)
        other.inbox.done()


def memories(value: Any) -> list[np.ndarray]:
    return [memory for memory in writables(value) if isinstance(memory, np.ndarray) and memory.size]


def journey(block: list[Any], inline_limit: int = 0) -> list[Any]:
    """Send one block to one worker as one batch."""
    pool = SegmentPool()
    with mock.patch.object(payload_store, "INLINE_LIMIT", inline_limit):
        stored = [(store(codec.encode(block), pool), len(block))]
    with Line() as line:
        line.send([[(0, i) for i in range(len(block))]], stored)
        received, _ = line.inbox.take(len(block))
    pool.close()
    return received


@pytest.mark.parametrize("inline_limit", [0, payload_store.INLINE_LIMIT])
def test_references_and_cycles_within_a_task_stay(inline_limit):
    array = np.arange(9)
    inner = Item("inner", array)
    box = Box(array, inner)
    box.tags["me"] = box
    (task,) = journey([Item("outer", box)], inline_limit)
    assert task.data.tags["me"] is task.data
    assert task.data.right.data is task.data.left
    task.data.left[0] = 99
    assert array[0] == 0


def test_tasks_of_a_block_that_share_an_object_share_it_on_arrival():
    """Even in two batches of one worker: one sees the other's writes, as in a single process."""
    shared = np.arange(9)
    first, second = journey([Item("d", shared), Item("d", shared)])
    assert first.data is second.data


def test_views_of_one_buffer_arrive_as_separate_arrays():
    buffer = np.arange(9)
    first, second = journey([Item("d", buffer), Item("d", buffer[2:])])
    first.data[:] = 0
    assert second.data.tolist() == list(range(2, 9))


def test_a_read_only_array_arrives_writable_and_stays_read_only_here():
    array = np.arange(100_000)
    array.flags.writeable = False
    encoded = codec.encode([array])
    assert sum(np.may_share_memory(array, np.frombuffer(part, np.uint8)) for part in encoded.parts) == 1, "no copy"
    (received,) = journey([array])
    received += 1
    assert not array.flags.writeable
    assert array[1] == 1


def test_the_array_may_be_freed_before_its_payload_is_written():
    array = np.arange(100_000)
    array.flags.writeable = False
    encoded = codec.encode(array)
    del array
    assert codec.decode(encoded.join(), in_place=False)[-1] == 99_999


def test_a_series_of_read_only_values_can_be_written_to():
    frame = pd.DataFrame({"a": np.arange(5)})
    values = frame["a"].to_numpy()
    assert not values.flags.writeable, "pandas shows its memory read-only"
    (received,) = journey([pd.Series(values)])
    received.iloc[0] = 7
    assert received.tolist() == [7, 1, 2, 3, 4]
    assert frame["a"].tolist() == [0, 1, 2, 3, 4]


class Driver:
    """The driver's end of a worker's connection. A thread reads everything, so the worker never waits."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.connection = BlockingConnection(self._theirs)
        self.messages: list[Results] = []
        self._receiver = Receiver(self._ours)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while True:
                self.messages += self._receiver.receive(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Read what the worker has sent, and close."""
        self._theirs.close()
        self._thread.join()
        self._ours.close()


@dataclass(frozen=True)
class Ran:
    """A batch that ran: its outputs, the index of each output's parent, and how the batch ended."""

    outputs: list[Item]
    parents: list[int]
    fate: str  # done; raised, after all were encoded; unpicklable, at the last output


@st.composite
def runs(draw, max_outputs=12):
    contents = st.integers(0, 3000).map(lambda n: bytes([n % 251]) * n)
    outputs = draw(st.lists(contents, max_size=max_outputs))
    parents = draw(st.lists(st.integers(-1, 9), min_size=len(outputs), max_size=len(outputs)))
    fate = draw(st.sampled_from(["done", "done", "done", "raised", "unpicklable"]))
    return Ran([Item("d", np.frombuffer(data, np.uint8)) for data in outputs], parents, fate)


limits = st.fixed_dictionaries(
    {
        "inline": st.sampled_from([0, 500, 5000, payload_store.INLINE_LIMIT]),
        "flush": st.sampled_from([1, 1000, 256 * 1024]),
        "arena": st.sampled_from([PAGE, 4 * PAGE, 16 * 1024 * 1024]),
        "block": st.sampled_from([1, 1000, 32 * 1024]),
    }
)


@settings(max_examples=60)
@given(st.lists(runs(), max_size=8), limits, st.data())
def test_every_output_leaves_once_in_order_with_its_parent(batches, limit, data):
    for number, ran in enumerate(batches):
        for place, task in enumerate(ran.outputs):
            task._set_task_id(f"{number}", place)
    pool = SegmentPool()
    with (
        Driver() as driver,
        mock.patch.object(payload_store, "INLINE_LIMIT", limit["inline"]),
        mock.patch.object(outbox_module, "_FLUSH_BYTES", limit["flush"]),
        mock.patch.object(outbox_module, "_ARENA_BYTES", limit["arena"]),
        mock.patch.object(BlockSizer, "_TARGET_BYTES", limit["block"]),
    ):
        outbox = Outbox(driver.connection, pool)
        for number, ran in enumerate(batches):
            _run(outbox, number, ran)
            if ran.fate == "done":
                outbox.reuse_when_sent(pool.acquire(data.draw(st.integers(1, 3)) * PAGE))
            if data.draw(st.booleans()):
                outbox.flush_if_due(idle=True)
        outbox.flush()
    pool.close()
    _check(driver.messages, batches)
    driver.messages.clear()


def _run(outbox: Outbox, number: int, ran: Ran) -> None:
    tasks = list(ran.outputs)
    if ran.fate == "unpicklable":
        tasks.append(SimpleNamespace(task_id="never", data=(i for i in range(3))))
    if ran.fate == "unpicklable":
        with pytest.raises(TypeError, match="generator"):
            outbox.add(number, tasks, [*ran.parents, -1])
    else:
        outbox.add(number, tasks, ran.parents)
    if ran.fate != "done":
        outbox.drop_unfinished(number)
        return
    assert not tasks, "the outputs are dropped as they are encoded"
    outbox.totals.batches += 1
    outbox.finish({"m": 1.0}, 1)


def _check(messages: list[Results], batches: list[Ran]) -> None:
    arrived: dict[int, list[tuple[str, int, Any]]] = {}
    complete: list[int] = []
    for message in messages:
        taken = iter(message.payloads)
        sizes, ids, parents = iter(message.sizes), iter(message.task_ids), iter(message.parents)
        for batch_id, count, is_last in zip(message.batch_ids, message.blocks, message.complete, strict=True):
            assert batch_id not in complete, "nothing of a batch after its last piece"
            for _ in range(count):
                block = load(next(taken))
                assert len(block) == next(sizes)
                for task in block:
                    task_id = next(ids)
                    assert task_id == task.task_id
                    arrived.setdefault(batch_id, []).append((task_id, next(parents), task.data))
            complete += [batch_id] * is_last
        assert not [*taken, *sizes, *ids, *parents], "every column has the entries of its blocks and no more"
    assert complete == [number for number, ran in enumerate(batches) if ran.fate == "done"]
    assert sum(message.stats[0] for message in messages if message.stats) == len(complete)
    for number, ran in enumerate(batches):
        expected = [(task.task_id, parent, task.data) for task, parent in zip(ran.outputs, ran.parents, strict=True)]
        found = arrived.get(number, [])
        if ran.fate == "done":
            assert len(found) == len(expected)
        assert same(expected[: len(found)], found), "of a batch that failed, at most what was sent before it did"


def test_a_failed_batch_removes_nothing_of_its_neighbours():
    batches = [Ran([Item("d", number)], [0], fate) for number, fate in enumerate(["done", "unpicklable", "done"])]
    with Driver() as driver:
        outbox = Outbox(driver.connection, SegmentPool())
        for number, ran in enumerate(batches):
            _run(outbox, number, ran)
        outbox.flush()
    (message,) = driver.messages
    assert message.batch_ids == [0, 2]
    assert [task.data for payload in message.payloads for task in load(payload)] == [0, 2]


def test_an_input_segment_is_reused_for_outputs_once_the_driver_has_the_results():
    pool = SegmentPool()
    spent = pool.acquire(100 * PAGE)
    with Driver() as driver:
        outbox = Outbox(driver.connection, pool)
        _run(outbox, 0, Ran([Item("d", np.zeros(90 * PAGE, np.uint8))], [0], "done"))
        outbox.reuse_when_sent(spent)
        _run(outbox, 1, Ran([Item("d", np.ones(90 * PAGE, np.uint8))], [0], "done"))
        outbox.flush()
    first, second = (load(payload) for payload in driver.messages[0].payloads)
    assert not first[0].data.any()
    assert second[0].data.all()
    assert all(isinstance(payload, SegmentRef) for payload in driver.messages[0].payloads)
    assert pool.acquire(100 * PAGE) is spent
    spent.close()
    pool.close()
    driver.messages.clear()


def test_what_a_large_batch_makes_is_sent_while_the_rest_is_still_packed():
    made = [Item("d", np.ones(20 * 1024 * 1024, np.uint8)) for _ in range(9)]
    with Driver() as driver:
        outbox = Outbox(driver.connection, SegmentPool())
        _run(outbox, 0, Ran(made, [0] * 9, "done"))
        outbox.flush()
    assert [len(message.payloads) for message in driver.messages] == [4, 4, 1]
    assert [message.complete for message in driver.messages] == [[0], [0], [1]]
    driver.messages.clear()


def test_outputs_that_share_a_reused_segment_do_not_hold_the_rest_of_it():
    pool = SegmentPool()
    spent = pool.acquire(20 * 1024 * 1024)
    spent.write([bytes(spent.capacity)], 0)
    with Driver() as driver:
        outbox = Outbox(driver.connection, pool)
        outbox.reuse_when_sent(spent)
        _run(outbox, 0, Ran([], [], "done"))
        outbox.flush()
        _run(outbox, 1, Ran([Item("d", np.ones(100_000, np.uint8)) for _ in range(2)], [0, 0], "done"))
        outbox.flush()
    payloads = driver.messages[-1].payloads
    assert [task.data.sum() for payload in payloads for task in load(payload)] == [100_000] * 2
    assert len({payload.segment.fd for payload in payloads}) == 1
    assert os.fstat(payloads[0].segment.fd).st_blocks * 512 < 300_000
    driver.messages.clear()
    pool.close()
