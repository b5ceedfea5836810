"""Files without a name, with and without memfd_create."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from gpuexec.channel import anonymous
from gpuexec.channel.anonymous import anonymous_file


@pytest.fixture
def refused(monkeypatch):
    """Have the system refuse memfd_create."""

    def refuse(code: int) -> None:
        def raise_error(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(anonymous, "_offers_memfd", True)
        monkeypatch.setattr(os, "memfd_create", raise_error)

    return refuse


def check(fd: int, size: int) -> None:
    try:
        assert os.fstat(fd).st_size == size
        assert os.fstat(fd).st_nlink == 0, "it has no name"
        assert not os.get_inheritable(fd)
        with mmap.mmap(fd, size) as page:
            page[:2] = b"ab"
        assert os.pread(fd, 2, 0) == b"ab"
    finally:
        os.close(fd)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_system_that_has_no_memfd(refused, code: int):
    refused(code)
    check(anonymous_file("a", 4096), 4096)
    assert not anonymous._offers_memfd, "it is not asked again"


def test_a_python_that_has_no_memfd(monkeypatch):
    monkeypatch.setattr(anonymous, "_offers_memfd", False)
    check(anonymous_file("a", 4096), 4096)


def test_no_descriptor_left_is_an_error_and_no_reason_to_give_up_memfds(refused):
    refused(errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        anonymous_file("a", 4096)
    assert anonymous._offers_memfd


def test_without_shared_memory_it_is_a_temporary_file(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(anonymous, "_offers_memfd", False)
    monkeypatch.setattr(anonymous, "_SHARED_MEMORY", str(tmp_path / "absent"))
    check(anonymous_file("a", 4096), 4096)


def test_a_full_shared_memory_is_passed_over(monkeypatch):
    reserve = os.posix_fallocate
    full = iter([True, False])

    def fill(fd: int, offset: int, size: int) -> None:
        if next(full):
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(fd, offset, size)

    monkeypatch.setattr(anonymous, "_offers_memfd", False)
    monkeypatch.setattr(os, "posix_fallocate", fill)
    check(anonymous_file("a", 4096), 4096)


def test_a_file_system_without_nameless_files(monkeypatch, tmp_path: Path):
    make = os.open

    def refuse(path: str, flags: int, *arguments: int, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return make(path, flags, *arguments, **named)

    monkeypatch.setattr(anonymous, "_offers_memfd", False)
    monkeypatch.setattr(anonymous, "_SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(os, "open", refuse)
    check(anonymous_file("a", 4096), 4096)
    assert not list(tmp_path.iterdir())
