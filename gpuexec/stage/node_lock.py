"""One ``setup_on_node`` of a stage class at a time on this node, across all runs of one user.

Two runs that download the same model to the same folder at the same time destroy each other's files. The kernel holds
the lock (flock) and frees it when the process ends, however that happens. Only the empty lock file stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def node_lock(name: str) -> Iterator[None]:
    """Wait for the lock of this name and hold it for the block; hold no lock if its file cannot be created."""
    try:
        file = _lock_path(name).open("a")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_path(name: str) -> Path:
    import hashlib  # slow to import, and only needed here
    import tempfile

    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"gpuexec-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is not a directory of this user")
    return folder / f"setup-on-node-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
