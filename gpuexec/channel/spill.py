"""Payloads in files on disk: what waits for a later phase and does not fit in memory.

The files have no name, so nothing of them is left, however the processes end that hold them. Each holds many payloads,
one after the other, and is closed, which frees its space, when the last of them is done with. They are read in the
order in which they were written, so at most one file has space that could be freed already. A file takes 64 MiB and, as
the total grows, a sixteenth of it: then a terabyte is 130 files, far below the limit of descriptors, and what cannot be
freed yet is 6 % of the total. One file with holes punched into it would free more, but not on every file system.

Workers read a payload from the file itself, as they read one from a segment.
"""

from __future__ import annotations

import contextlib
import os

from gpuexec.channel.anonymous import unnamed_file
from gpuexec.channel.payload import Payload, SegmentRef, payload_size
from gpuexec.channel.segments import Segment, read_into
from gpuexec.errors import SpillFailed
from gpuexec.units import GIB, MIB, format_bytes

_MIN_FILE_BYTES = 64 * MIB
_FILE_SHARE = 16  # of the total
_MAX_RESERVE = 1 * GIB
_RESERVE_SHARE = 20  # 5 % of the file system stay free, or 1 GiB where that is less
_COPY_BYTES = 1 * MIB
_WRITE_BACK_BYTES = 8 * MIB


class SpillFiles:
    """The files of one run, in ``folder``. For one thread.

    ``total``: bytes written so far.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.total = 0
        self._file: Segment | None = None  # that is being filled
        self._used = 0  # bytes of it
        self._written_back = 0  # bytes of it that the system was asked to write to disk
        self._buffer = bytearray()

    def store(self, payload: Payload) -> SegmentRef:
        """Write a payload to a file and return where. Raises ``SpillFailed``."""
        size = payload_size(payload)
        try:
            file = self._file_with_room_for(size)
            self._check_space(file, size)
            self._copy(payload, file)
        except OSError as error:
            raise self._failure(size, error.strerror or str(error)) from error
        ref = SegmentRef(file, self._used, size, exclusive=False)
        self._used += size
        self.total += size
        self._write_back(file)
        return ref

    def finish_file(self) -> None:
        """Write to no file that exists: each is closed when the last payload in it is done with.

        Raises ``SpillFailed`` if the disk has failed to take what was written.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.fdatasync(file.fd)  # it reports what failed after `write` had returned; takes no time after _write_back
        except OSError as error:
            raise self._failure(self._used, error.strerror or str(error)) from error

    def close(self) -> None:
        """Let go of the file that is being filled."""
        self._file = None
        self._buffer = bytearray()

    def _file_with_room_for(self, size: int) -> Segment:
        if self._file is not None and self._used + size > self._file.capacity:
            self.finish_file()
        if self._file is None:
            capacity = max(size, _MIN_FILE_BYTES, self.total // _FILE_SHARE)
            self._file = Segment(unnamed_file(self.folder), capacity)
            self._used = self._written_back = 0
        return self._file

    def _check_space(self, file: Segment, size: int) -> None:
        """Raise ``SpillFailed`` if the file system would be nearly full afterwards; others write to it too."""
        space = os.fstatvfs(file.fd)
        if not space.f_blocks:
            return  # some file systems do not say; writing will
        reserve = min(_MAX_RESERVE, space.f_blocks * space.f_frsize // _RESERVE_SHARE)
        if space.f_bavail * space.f_frsize - size < reserve:
            raise self._failure(size, f"{format_bytes(reserve)} are to stay free")

    def _copy(self, payload: Payload, file: Segment) -> None:
        if not isinstance(payload, SegmentRef):
            file.write([payload], self._used)
            return
        self._buffer = self._buffer or bytearray(_COPY_BYTES)
        for start in range(0, payload.length, _COPY_BYTES):
            part = memoryview(self._buffer)[: payload.length - start]
            read_into(payload, [part], start)
            file.write([part], self._used + start)

    def _write_back(self, file: Segment) -> None:
        """Have the disk begin with what was written, so that it does not pile up in memory."""
        if self._used - self._written_back >= _WRITE_BACK_BYTES:
            # This call also drops pages from the cache that are on disk already, of which there are none yet.
            with contextlib.suppress(OSError):  # it is only advice
                os.posix_fadvise(file.fd, self._written_back, self._used - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = self._used

    def _failure(self, size: int, reason: str) -> SpillFailed:
        return SpillFailed(
            f"what waits for the next phase is more than queue_bytes, and the rest cannot be written to "
            f"{self.folder}: {format_bytes(size)} more are wanted after {format_bytes(self.total)}, "
            f"{_free(self.folder)} are free; {reason}. Make room there, set spill_dir to a folder with more, or, if "
            "there is memory for it, raise queue_bytes"
        )


def _free(folder: str) -> str:
    try:
        space = os.statvfs(folder)
    except OSError as error:
        return f"an unknown number of bytes ({error.strerror})"
    return format_bytes(space.f_bavail * space.f_frsize)
