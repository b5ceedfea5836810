"""What the driver reads of a worker that writes at the same time, or was stopped or killed while it wrote."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gpuexec.channel import recorder
from gpuexec.channel.recorder import Current, FlightRecorder


@pytest.fixture
def page() -> Iterator[FlightRecorder]:
    with contextlib.closing(FlightRecorder.create()) as made:
        yield made


def test_it_says_what_was_noted_last(page: FlightRecorder):
    assert page.read() is None
    page.note_batch(3, 1.5, 2, 1)
    assert page.read() == Current(3, 1.5, 2, 1)
    page.note_batch(0, 2.5)
    assert page.read() == Current(0, 2.5, 0, 0)
    page.note_idle()
    assert page.read() is None


def test_the_worker_goes_on_where_the_driver_has_begun(page: FlightRecorder):
    worker = FlightRecorder(os.dup(page.fd))
    worker.note_batch(3, 1.5)
    assert page.read() == Current(3, 1.5, 0, 0)
    worker.close()


@pytest.mark.parametrize("written", range(recorder._ENTRY.size))
def test_of_an_entry_that_was_not_finished_the_one_before_counts(page: FlightRecorder, written: int):
    """However many bytes of it are there, whether the worker was killed or is not at its turn."""
    page.note_batch(3, 1.5, 2, 1)
    begins = ((page._number + 1) & 1) * recorder._ENTRY.size
    place = slice(begins, begins + recorder._ENTRY.size)
    before = page._page[place]
    page.note_batch(4, 2.5, 3, 2)
    page._page[place] = page._page[place][:written] + before[written:]
    assert page.read() in (Current(3, 1.5, 2, 1), Current(4, 2.5, 3, 2))
    page._page[place] = b"\0" * recorder._ENTRY.size  # as pack_into may leave it
    assert page.read() == Current(3, 1.5, 2, 1)


def test_what_is_read_while_it_is_written_is_one_entry(page: FlightRecorder):
    child = os.fork()
    if not child:
        number = 0
        while True:
            number += 1
            page.note_batch(number, float(number), number, number)
            page.note_idle()
    try:
        seen = set()
        until = time.monotonic() + 0.5
        while time.monotonic() < until or len(seen) < 10:
            current = page.read()
            if current is not None:
                assert current.batch_id == current.since == current.stage == current.task
                seen.add(current.batch_id)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
