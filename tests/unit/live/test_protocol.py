"""Messages arrive whole, however they are cut on their way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.errors import CannotAttach
from gpuexec.live import protocol

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=6),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_messages_arrive_as_they_were_sent(messages, sizes):
    sent = b"".join(map(protocol.encode, messages))
    reader, received, at, turn = protocol.Reader(), [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        received += reader.feed(sent[at : at + size])
        at, turn = at + size, turn + 1
    assert received == messages


def test_text_that_is_no_unicode_is_sent_all_the_same():
    assert b"\\udcff" in protocol.encode({"log": "\udcff"})


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK\r\n", b"[1]\n", b"{\n", b"\xff\n"])
def test_what_is_no_message(line):
    with pytest.raises(ValueError, match=r".+"):
        protocol.Reader().feed(line)


def test_a_line_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(protocol, "MOST_LINE_BYTES", 1000)
    reader = protocol.Reader()
    reader.feed(b"x" * 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        reader.feed(b"x")


def test_another_version_is_named():
    hello = {"protocol": "gpuexec-live/2", "gpuexec": "3.0"}
    with pytest.raises(CannotAttach, match=r"gpuexec 3\.0 and speaks 'gpuexec-live/2'"):
        protocol.check_hello(hello)
    for wrong in (None, [], {}, {"protocol": 1}):
        with pytest.raises(CannotAttach):
            protocol.check_hello(wrong)
    assert protocol.check_hello({"protocol": protocol.PROTOCOL}) == {"protocol": "gpuexec-live/1"}
