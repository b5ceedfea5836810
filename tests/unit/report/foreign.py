"""A folder that this process may not read, as that of another user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_READ_EVERYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def barred(folder: Path) -> Iterator[str]:
    """Bar this thread from the folder; root's right to read everything is put aside. Yield whose the folder is then."""
    is_root = os.geteuid() == 0
    mode = folder.stat().st_mode & 0o777
    folder.chmod(0o700 if is_root else 0)
    if is_root:
        os.chown(folder, 65534, 65534)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    try:
        sets[0] = effective & ~_READ_EVERYTHING
        assert libc.capset(header, sets) == 0
        yield "another user" if is_root else "this user"
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
        if is_root:
            os.chown(folder, 0, 0)
        folder.chmod(mode)
