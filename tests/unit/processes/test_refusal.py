"""What the message says if the system refuses a process."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from gpuexec.processes.refusal import why_refused


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (errno.EAGAIN, "sysctl kernel.threads-max"),
        (errno.EMFILE, f"`ulimit -n` is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"),
        (errno.ENFILE, "sysctl fs.file-max"),
        (errno.ENOMEM, "vm.overcommit_memory"),
    ],
)
def test_it_names_the_limit_and_the_setting(code: int, named: str):
    text = why_refused(OSError(code, os.strerror(code)))
    assert os.strerror(code) in text
    assert named in text
    assert "num_workers()" in text


def test_an_error_of_another_kind_is_told_as_it_is():
    assert "No such file" in why_refused(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/no/python"))
