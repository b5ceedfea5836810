"""The exit of a process makes a descriptor readable, with and without pidfds."""

from __future__ import annotations

import errno
import os
import select
import subprocess

import pytest

from gpuexec.processes import exit_watch
from gpuexec.processes.exit_watch import ExitWatch


@pytest.fixture(params=["pidfd", "missing", errno.ENOSYS, errno.EPERM])
def process(request, monkeypatch):
    """A process that ends when its input does."""
    if request.param == "missing":
        monkeypatch.setattr(exit_watch, "_offers_pidfd", False)
    elif request.param != "pidfd":

        def refuse(*_: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(exit_watch, "_offers_pidfd", True)
        monkeypatch.setattr(os, "pidfd_open", refuse)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def readable(watch: ExitWatch, timeout: float) -> bool:
    return bool(select.select([watch.fd], [], [], timeout)[0])


def test_it_is_readable_from_the_exit_on_and_the_process_is_not_reaped(process):
    watch = ExitWatch(process.pid)
    assert not readable(watch, 0)
    process.stdin.close()
    assert readable(watch, 30)
    assert process.returncode is None
    assert process.wait() == 0
    watch.close()


def test_a_process_that_is_killed_and_reaped_at_once(process):
    watch = ExitWatch(process.pid)
    process.kill()
    assert process.wait() == -9
    assert readable(watch, 30)
    watch.close()


def test_no_descriptor_left_is_an_error(process, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ExitWatch(process.pid)
