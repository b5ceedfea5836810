"""Files without a name, in memory where possible: what is left of them ends with the last process that holds them."""

from __future__ import annotations

import errno
import os

_NOT_OFFERED = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the file has no name there

_offers_memfd = hasattr(os, "memfd_create")


def anonymous_file(name: str, size: int) -> int:
    """Return the descriptor of a file of ``size`` zero bytes; ``name`` is shown in ``/proc`` if it is a memfd.

    Some Pythons have no ``memfd_create``, and old kernels and sandboxes refuse it. Then the file is in ``/dev/shm``, or
    in the folder for temporary files if there is no room. Raises ``OSError`` if the system has no memory or descriptor
    left.
    """
    global _offers_memfd  # noqa: PLW0603 - it describes the system
    if _offers_memfd:
        try:
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            _offers_memfd = False
        else:
            return _resized(fd, size)
    try:
        return _allocated(_SHARED_MEMORY, size)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        from tempfile import gettempdir  # takes 15 ms

        return _allocated(gettempdir(), size)


def _resized(fd: int, size: int) -> int:
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unnamed_file(folder: str) -> int:
    """Return the descriptor of a new, empty file in ``folder`` that has no name. Raises ``OSError``."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        from tempfile import mkstemp

        fd, path = mkstemp(prefix="gpuexec-", dir=folder)  # the file system cannot make one without a name
        os.unlink(path)  # noqa: PTH108 - importing pathlib takes every worker 3 ms
        return fd


def _allocated(folder: str, size: int) -> int:
    """Return a new file in ``folder`` whose space is reserved: writing to its mapping must not find the disk full."""
    fd = unnamed_file(folder)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except BaseException:
        os.close(fd)
        raise
    return fd
