"""One ``setup_on_node`` of a stage class at a time on this node, across all runs of one user.

Two runs that download the same model to the same folder at the same time destroy each other's files. The kernel holds
the lock (flock) and frees it when the process ends, however that happens. Only the empty lock file stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gpuexec.private_folder import private_folder


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
        holder = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == holder:  # processes that the stage forked have the file too, and may live on
                fcntl.flock(file, fcntl.LOCK_UN)


def _lock_path(name: str) -> Path:
    import hashlib  # slow to import, and only needed here
    import tempfile

    shared = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = private_folder(shared / f"gpuexec-{os.getuid()}")
    return folder / f"setup-on-node-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
