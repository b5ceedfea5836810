"""Frames on a socket: every message arrives whole and in order, with its descriptors, however the stream is cut."""

from __future__ import annotations

import gc
import os
import socket
import threading

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.messages import BY_KIND, Failed, LogLine, Message, Results, Start, Stop, Work
from gpuexec.channel.payload import SegmentRef, payload_size
from gpuexec.channel.segments import PAGE, SegmentPool, read_segment
from gpuexec.channel.wire import BlockingConnection, ConnectionLost, Receiver, Sender
from gpuexec.contract.phases import StagePhase

ids = st.integers(0, 2**31)
text = st.text(max_size=40)
inline = st.binary(max_size=2000)
slices = st.none() | st.lists(st.integers(0, 100), min_size=2, max_size=3)


@st.composite
def works(draw):
    counts = draw(st.lists(st.integers(0, 3), max_size=5))
    payloads = tuple(draw(st.lists(inline, min_size=sum(counts), max_size=sum(counts))))
    return Work([draw(ids) for _ in counts], counts, [draw(slices) for _ in payloads], payloads=payloads)


messages = st.one_of(
    works(),
    st.just(Stop()),
    st.builds(
        Start,
        st.lists(text),
        text,
        text,
        st.just({"gpus": []}),
        st.lists(text),
        st.lists(ids),
        text,
        st.just([True, ["builtins.MemoryError"], False, False]),
        st.dictionaries(text, ids),
        ids,
        payloads=st.tuples(inline),
    ),
    st.builds(
        Failed, st.sampled_from(StagePhase), st.none() | ids, st.lists(text), text, text, st.booleans(), st.booleans()
    ),
    st.builds(LogLine, text, ids, text, st.floats(0, 2e9), st.none() | text, text, ids),
    st.builds(lambda i, t: Results([i], [1], [1], [1], [t], [-1], None, [[i, 0, 0]], payloads=(b"x",)), ids, text),
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def plain(message: Message) -> tuple:
    fields = list(message.to_tuple()[:-1])
    bodies = [bytes(read_segment(p)) if isinstance(p, SegmentRef) else bytes(p) for p in message.payloads]
    return (type(message), fields, bodies)


@given(st.lists(messages, min_size=1, max_size=8))
def test_messages_arrive_as_they_were_sent(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Sender(ours), Receiver(theirs)
        for message in sent:
            sender.put(message)
        assert sender.flush()
        received = []
        while len(received) < len(sent):
            received += receiver.receive()
        assert list(map(plain, received)) == list(map(plain, sent))


@given(st.lists(works(), min_size=1, max_size=3), st.data())
def test_frames_may_be_cut_anywhere(sent, data):
    ours, middle = socket.socketpair()
    far, theirs = socket.socketpair()
    with ours, middle, far, theirs:
        sender, receiver = Sender(ours), Receiver(theirs)
        for message in sent:
            sender.put(message)
        sender.flush()
        stream = middle.recv(1 << 20)
        received = []
        while stream:
            count = data.draw(st.integers(1, len(stream)))
            far.send(stream[:count])
            stream = stream[count:]
            received += receiver.receive()
        assert list(map(plain, received)) == list(map(plain, sent))


def segment_with(pool: SegmentPool, content: bytes) -> SegmentRef:
    segment = pool.acquire(len(content))
    segment.write([content], 0)
    return SegmentRef(segment, 0, len(content), exclusive=True)


def test_segments_are_sent_as_descriptors(pair):
    ours, theirs = pair
    pool = SegmentPool()
    shared = pool.acquire(2 * PAGE)
    shared.write([b"first"], 0)
    shared.write([b"second"], PAGE)
    refs = (
        SegmentRef(shared, 0, 5, exclusive=False),
        SegmentRef(shared, PAGE, 6, exclusive=False),
        segment_with(pool, b"alone"),
    )
    sender, receiver = Sender(ours), Receiver(theirs)
    sender.put(Work([1], [4], [None] * 4, payloads=(*refs, b"inline")))
    sender.flush()
    (message,) = receiver.receive()
    a, b, c, d = message.payloads
    assert a.segment is b.segment, "one descriptor for one segment"
    assert [bytes(read_segment(r)) for r in (a, b, c)] == [b"first", b"second", b"alone"]
    assert bytes(d) == b"inline"
    assert [r.exclusive for r in (a, b, c)] == [False, False, True]
    assert not os.get_inheritable(c.segment.fd)
    assert [payload_size(p) for p in message.payloads] == [5, 6, 5, 6]


def test_more_descriptors_than_one_call_may_carry(pair):
    ours, theirs = pair
    pool = SegmentPool()
    refs = tuple(segment_with(pool, b"%d" % i) for i in range(600))
    sender, receiver = Sender(ours), Receiver(theirs)
    sender.put(Work([1], [600], [None] * 600, payloads=refs))
    received = []
    while not received:
        sender.flush()
        received += receiver.receive()
    assert [bytes(read_segment(r)) for r in received[0].payloads] == [b"%d" % i for i in range(600)]


def test_the_sender_closes_a_segment_once_it_is_sent(pair):
    ours, _ = pair
    pool = SegmentPool()
    place = segment_with(pool, b"x" * PAGE)
    fd = place.segment.fd
    sender = Sender(ours)
    sender.put(Work([1], [1], [None], payloads=(place,)))
    sender.flush()
    del place
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_full_socket_keeps_the_rest_for_later(pair):
    ours, theirs = pair
    sender, receiver = Sender(ours), Receiver(theirs)
    big = Work([1], [1], [None], payloads=(bytes(5_000_000),))
    sender.put(big)
    sender.put(Stop())
    assert not sender.flush()
    received = []
    while len(received) < 2:
        received += receiver.receive()
        sender.flush()
    assert sender.flush()
    assert payload_size(received[0].payloads[0]) == 5_000_000
    assert isinstance(received[1], Stop)


def test_segments_of_a_frame_that_never_ends_are_closed(pair):
    ours, theirs = pair
    pool = SegmentPool()
    sender, receiver = Sender(ours), Receiver(theirs)
    sender.put(Work([1], [2], [None, None], payloads=(segment_with(pool, b"abc"), bytes(5_000_000))))
    sender.flush()
    assert receiver.receive() == []
    before = psutil.Process().num_fds()
    receiver.close()
    assert psutil.Process().num_fds() == before - 1


def test_nothing_to_read_and_end_of_file(pair):
    ours, theirs = pair
    receiver = Receiver(ours)
    with pytest.raises(BlockingIOError):
        receiver.receive()
    theirs.close()
    with pytest.raises(ConnectionLost):
        receiver.receive()
    sender = Sender(ours)
    sender.put(Stop())
    with pytest.raises(ConnectionLost):
        sender.flush()


def test_the_workers_end_sends_from_any_thread(pair):
    ours, theirs = pair
    connection, receiver = BlockingConnection(theirs), Receiver(ours)
    senders = [
        threading.Thread(
            target=lambda n=n: [connection.send(Results([n], [0], [1], [], [], [], None)) for _ in range(200)]
        )
        for n in range(4)
    ]
    for thread in senders:
        thread.start()
    received = []
    while len(received) < 800:
        received += _poll(receiver)
    for thread in senders:
        thread.join()
    assert sorted(m.batch_ids[0] for m in received) == sorted([n for n in range(4) for _ in range(200)])


def _poll(receiver: Receiver) -> list[Message]:
    try:
        return receiver.receive()
    except BlockingIOError:
        return []


def test_the_workers_end_knows_whether_a_message_is_waiting(pair):
    ours, theirs = pair
    connection, sender = BlockingConnection(theirs), Sender(ours)
    assert not connection.poll()
    sender.put(Stop())
    sender.flush()
    assert connection.poll()
    assert isinstance(connection.receive(), Stop)
    ours.close()
    with pytest.raises(ConnectionLost):
        connection.receive()


def test_a_disowned_connection_sends_and_receives_nothing(pair):
    ours, theirs = pair
    connection = BlockingConnection(theirs)
    connection.disown()
    assert connection.send(Stop()) is False
    assert not connection.poll()
    with pytest.raises(ConnectionLost, match="another process owns"):
        connection.receive()
    with pytest.raises(BlockingIOError):
        ours.recv(1)


def test_every_message_has_a_number_of_its_own():
    names = {cls.__name__ for cls in Message.__subclasses__()}
    assert {cls.__name__ for cls in BY_KIND.values()} == names
    assert all(cls.kind == kind for kind, cls in BY_KIND.items())
