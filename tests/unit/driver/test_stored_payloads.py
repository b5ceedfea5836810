"""Blocks that are put away on disk come back as they were."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.segments import PAGE, SegmentPool, read_segment
from gpuexec.core.batch import Block
from gpuexec.core.queue import TaskQueue
from gpuexec.driver.stored_payloads import StoredPayloads
from gpuexec.errors import SpillFailed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


def content(block: Block) -> tuple[Any, ...]:
    """Return all that matters of a block."""
    payload = block.payload
    data = bytes(read_segment(payload) if isinstance(payload, SegmentRef) else payload)
    return data, block.task_ids, block.paths, block.queued_at, block.sources, block.bytes, block.on_disk


blocks = st.builds(
    lambda data, ids, at, sources: Block(
        memoryview(data), ids, [name.encode() for name in ids], at, [3] * len(ids) if sources else None
    ),
    st.binary(max_size=50),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
    st.floats(0, 1e6),
    st.booleans(),
)


@given(blocks=st.lists(st.tuples(blocks, st.booleans(), st.integers(0, 3)), max_size=8), away=st.data())
def test_what_is_put_away_comes_back_in_its_order(folder, blocks, away):
    stored, queue = StoredPayloads(str(folder)), TaskQueue()
    expected = []
    waiting = 0  # parts at the end of the queue that are not put away
    for block, alone, start in blocks:
        if alone:
            block.move(stored.spill(block.payload), on_disk=True)
        part = (block, min(start, len(block) - 1), len(block))
        expected += [(content(block), at) for at in range(part[1], part[2])]
        queue.push(part)
        waiting += 1
        tasks, in_memory = len(queue), queue.bytes
        if away.draw(st.booleans()):
            count = away.draw(st.integers(1, waiting))
            queue.put_away(count, stored.put_away)
            waiting = 0
            assert len(queue) == tasks
            assert queue.bytes <= in_memory
    taken = []
    while len(queue):
        for block, start, stop in queue.take(away.draw(st.integers(1, 3))):
            taken += [(content(block), at) for at in range(start, stop)]
    assert taken == expected
    assert queue.bytes == 0
    stored.close()


def test_a_segment_is_trimmed_to_its_payload_unless_it_holds_others_too(folder):
    stored, pool = StoredPayloads(str(folder)), SegmentPool()
    for exclusive, pages in ((True, 1), (False, 9)):
        segment = pool.acquire(9 * PAGE)
        stored.trim(SegmentRef(segment, 0, 10, exclusive=exclusive))
        assert os.fstat(segment.fd).st_size == pages * PAGE
        segment.close()
    stored.trim(b"not in a segment")


def test_a_disk_that_fails_to_read(folder, monkeypatch):
    stored, queue = StoredPayloads(str(folder)), TaskQueue()
    queue.push((Block(b"1", ["a"], [b"p"], 0.0), 0, 1))
    queue.put_away(1, stored.put_away)

    def fail(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(SpillFailed, match="Input/output error"):
            queue.take(1)
    assert queue.take(1)[0][0].task_ids == ["a"]
    stored.close()
