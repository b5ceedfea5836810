"""The thread that writes: in order, bounded, and a disk that hangs holds nothing back."""

from __future__ import annotations

import threading

from gpuexec.report.folder_writer import FolderWriter
from gpuexec.units import MIB


def test_steps_are_taken_in_order():
    writer, taken = FolderWriter(), []
    for number in range(100):
        assert writer.submit(lambda number=number: taken.append(number))
    assert writer.close(10.0)
    assert taken == list(range(100))
    assert writer.error is None


def test_the_first_error_is_kept_and_later_steps_are_taken():
    def fail(number: int) -> None:
        raise OSError(number, "no space")

    writer, taken = FolderWriter(), []
    for number in (1, 2):
        writer.submit(lambda number=number: fail(number))
    writer.submit(lambda: taken.append("later"))
    assert writer.close(10.0)
    assert writer.error.errno == 1
    assert taken == ["later"]


def test_too_much_that_waits_is_dropped_but_not_what_is_needed():
    go, writer, taken = threading.Event(), FolderWriter(), []
    writer.submit(go.wait, 40 * MIB)
    assert writer.submit(lambda: taken.append("fits"), 30 * MIB)
    assert not writer.submit(lambda: taken.append("too much"), MIB)
    assert writer.submit(lambda: taken.append("needed"), MIB, needed=True)
    go.set()
    assert writer.close(10.0)
    assert taken == ["fits", "needed"]
    assert writer.dropped == 1


def test_a_disk_that_hangs_is_not_waited_for():
    go, writer = threading.Event(), FolderWriter()
    writer.submit(go.wait)
    assert not writer.close(0.05)
    go.set()
    assert writer.close(10.0)
