"""The lines that a worker prints."""

from __future__ import annotations

import functools
import os

import pytest

from gpuexec.processes.spawn import WorkerProcess, spawn


@pytest.fixture
def worker():
    process = WorkerProcess("s-0", functools.partial(spawn, env=dict(os.environ)))
    yield process
    process.process.kill()
    process.process.wait()
    process.close()


def read_all(worker: WorkerProcess) -> list[str]:
    lines: list[str] = []
    still_open = True
    while still_open:
        new_lines, still_open = worker.read_output()
        lines += new_lines
    return lines


def test_lines_are_cut_at_line_ends_whatever_the_chunks(worker):
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    before, worker.output_fd = worker.output_fd, read_end
    try:
        os.write(write_end, b"one\ntw")
        assert worker.read_output() == (["one"], True)
        os.write(write_end, b"o\r\n\xff\nlast")
        assert worker.read_output() == (["two", "\N{REPLACEMENT CHARACTER}"], True)
        assert worker.read_output() == ([], True), "nothing more yet"
        os.close(write_end)
        assert worker.read_output() == (["last"], False)
        assert list(worker.last_lines) == ["one", "two", "\N{REPLACEMENT CHARACTER}", "last"]
    finally:
        worker.output_fd = before
        os.close(read_end)
