"""The driver's selector, with a descriptor of each kind: what it reports, and in which order."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gpuexec.processes.watch import Readiness, Watch

KEY = "w"


@pytest.fixture
def worker() -> Iterator[SimpleNamespace]:
    """The descriptors of a worker, and the other ends of its socket and its output pipe."""
    sock, worker_sock = socket.socketpair()
    output_fd, worker_output_fd = os.pipe()
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    exit_fd = os.pidfd_open(process.pid)
    yield SimpleNamespace(
        sock=sock,
        output_fd=output_fd,
        exit_fd=exit_fd,
        process=process,
        worker_sock=worker_sock,
        worker_output_fd=worker_output_fd,
    )
    process.communicate()
    sock.close()
    worker_sock.close()
    for fd in (output_fd, worker_output_fd, exit_fd):
        os.close(fd)


@pytest.fixture
def watch(worker) -> Iterator[Watch]:
    watch = Watch()
    watch.add(KEY, worker)
    yield watch
    watch.close()


def test_the_exit_is_reported_after_what_the_worker_sent_before_it(watch, worker):
    assert watch.wait(0) == []
    worker.process.stdin.close()
    assert watch.wait(None) == [(KEY, Readiness.EXIT)]
    os.write(worker.worker_output_fd, b"last words")
    worker.worker_sock.send(b"result")
    *earlier, last = watch.wait(0)
    assert {kind for _, kind in earlier} == {Readiness.MESSAGE, Readiness.OUTPUT}
    assert last == (KEY, Readiness.EXIT)


def test_writability_is_reported_only_while_enabled(watch, worker):
    watch.watch_writable(KEY, worker, enabled=True)
    assert watch.wait(0) == [(KEY, Readiness.WRITABLE)]
    worker.worker_sock.send(b"result")
    assert watch.wait(0) == [(KEY, Readiness.MESSAGE), (KEY, Readiness.WRITABLE)]
    watch.watch_writable(KEY, worker, enabled=False)
    assert watch.wait(0) == [(KEY, Readiness.MESSAGE)]


def test_ignored_descriptors_are_not_reported(watch, worker):
    os.write(worker.worker_output_fd, b"text")
    worker.worker_sock.send(b"result")
    watch.ignore_messages(worker)
    assert watch.wait(0) == [(KEY, Readiness.OUTPUT)]
    watch.ignore_output(worker)
    assert watch.wait(0) == []
    watch.remove(worker)
    worker.process.stdin.close()
    worker.process.wait()
    assert watch.wait(0) == []


def test_a_reader_is_reported_until_it_is_removed(watch):
    reader, writer = socket.socketpair()
    with reader, writer:
        watch.add_reader(reader, "reader")
        writer.send(b"x")
        assert watch.wait(None) == [("reader", Readiness.MESSAGE)]
        watch.remove_reader(reader)
        watch.remove_reader(reader)
        assert watch.wait(0) == []
