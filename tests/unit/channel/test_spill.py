"""Payloads in files on disk: what was stored is loaded, in any order, and space is freed when it is done with."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel import spill
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.segments import SegmentPool, read_segment
from gpuexec.channel.spill import SpillFiles
from gpuexec.errors import SpillFailed
from gpuexec.units import MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


def content_of(number: int, size: int) -> bytes:
    return (number.to_bytes(4, "little") * (size // 4 + 1))[:size]


def in_segment(content: bytes, before: int) -> SegmentRef:
    """Return a payload that lies somewhere in a segment."""
    segment = SegmentPool().acquire(before + len(content) or 1)
    segment.write([content], before)
    return SegmentRef(segment, before, len(content), exclusive=False)


@contextlib.contextmanager
def small_units(file: int, copied: int, written_back: int):
    """Make the sizes, of which a test would need gigabytes, small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_MIN_FILE_BYTES", file)
        patch.setattr(spill, "_COPY_BYTES", copied)
        patch.setattr(spill, "_WRITE_BACK_BYTES", written_back)
        yield


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["inline", "segment", "segment", "discard", "finish"]), st.integers(0, 700)),
        max_size=40,
    ),
    file=st.integers(1, 1000),
    copied=st.integers(1, 300),
    written_back=st.integers(1, 300),
)
def test_any_order_of_store_load_and_discard(folder, steps, file, copied, written_back):
    with small_units(file, copied, written_back):
        files = SpillFiles(str(folder))
        kept: list[tuple[bytes, SegmentRef]] = []
        descriptors: set[int] = set()
        for number, (what, value) in enumerate(steps):
            if what == "discard" and kept:
                kept.pop(value % len(kept))
            elif what == "finish":
                files.finish_file()
            elif what in ("inline", "segment"):
                content = content_of(number, value)
                ref = files.store(content if what == "inline" else in_segment(content, number))
                assert not ref.exclusive, "no reader may write to it"
                kept.append((content, ref))
                descriptors.add(ref.segment.fd)
                del ref
            assert [bytes(read_segment(ref)) for _, ref in kept] == [content for content, _ in kept]
            assert not list(folder.iterdir()), "the files have no names"
        used = {ref.segment.fd for _, ref in kept}
        files.finish_file()
        for fd in descriptors - used:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        kept.clear()
        for fd in used:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


def test_space_is_freed_file_by_file_as_payloads_are_done_with(folder):
    files, size = SpillFiles(str(folder)), 8 * MIB
    refs = [files.store(bytes([number]) * size) for number in range(20)]
    files.finish_file()
    os.sync()

    def held() -> int:
        return sum(os.fstat(fd).st_blocks * 512 for fd in {ref.segment.fd for ref in refs})

    assert len({ref.segment.fd for ref in refs}) == 3, "8 in each file"
    before = os.statvfs(folder)
    assert held() >= 20 * size
    del refs[:16]
    gc.collect()
    assert 4 * size <= held() < 5 * size
    freed = (os.statvfs(folder).f_bfree - before.f_bfree) * before.f_frsize
    assert freed > 8 * size, "whatever others write and free meanwhile"
    assert files.total == 20 * size


def test_files_grow_with_the_total_so_that_there_are_few(folder, monkeypatch):
    monkeypatch.setattr(spill, "_MIN_FILE_BYTES", 64)
    files = SpillFiles(str(folder))
    refs = [files.store(bytes(16)) for _ in range(64 * 1024)]
    assert files.total == 16 * 64 * 1024  # as 64 MiB are to a terabyte
    assert len({ref.segment.fd for ref in refs}) < 140


def test_the_disk_begins_with_what_was_written_so_that_it_does_not_pile_up_in_memory(folder, monkeypatch):
    begun: list[tuple[int, int]] = []
    really = os.posix_fadvise

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        begun.append((offset, offset + length))
        really(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    files = SpillFiles(str(folder))
    refs = [files.store(bytes(3 * MIB)) for _ in range(10)]
    assert begun == [(0, 9 * MIB), (9 * MIB, 18 * MIB), (18 * MIB, 27 * MIB)]
    assert len(refs) == 10


def test_a_full_disk_is_refused_before_it_is_full(folder, monkeypatch):
    files = SpillFiles(str(folder))
    files.store(b"x" * 1000)
    space = os.statvfs(folder)
    almost_full = os.statvfs_result((*space[:3], *(99_000 * MIB // space.f_frsize // 1000,) * 2, *space[5:]))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: almost_full)
    with pytest.raises(SpillFailed) as caught:
        files.store(b"x" * MIB)
    text = str(caught.value)
    for part in (str(folder), "1.0 MiB more are wanted after 1000 B", "are to stay free", "spill_dir", "queue_bytes"):
        assert part in text
    monkeypatch.undo()
    assert bytes(read_segment(files.store(b"y"))) == b"y", "once there is room"


def test_a_file_system_that_does_not_tell_its_size(folder, monkeypatch):
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result((0,) * 10))
    assert bytes(read_segment(SpillFiles(str(folder)).store(b"x"))) == b"x"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_the_system_refuses(folder, monkeypatch, code):
    files = SpillFiles(str(folder))
    kept, more = files.store(b"kept"), in_segment(b"x" * 5000, 0)

    def refuse(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(SpillFailed) as caught:
        files.store(more)
    assert os.strerror(code) in str(caught.value)
    assert "4.9 KiB more are wanted" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert bytes(read_segment(kept)) == b"kept"


def test_an_error_that_the_disk_reports_later_is_not_lost(folder, monkeypatch):
    files = SpillFiles(str(folder))
    files.store(b"lost")
    monkeypatch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(SpillFailed, match="Input/output error"):
        files.finish_file()


def test_a_file_system_without_nameless_files(folder, monkeypatch):
    really = os.open

    def without(path: Any, flags: int, *others: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return really(path, flags, *others, **named)

    monkeypatch.setattr(os, "open", without)
    ref = SpillFiles(str(folder)).store(b"content")
    assert bytes(read_segment(ref)) == b"content"
    assert not list(folder.iterdir())
    assert os.fstat(ref.segment.fd).st_mode & 0o777 == 0o600
