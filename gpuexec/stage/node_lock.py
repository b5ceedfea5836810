"""One ``setup_on_node`` of a stage class at a time on this node, across all runs of one user.

Two runs that download the same model to the same folder at once destroy each other's files. The lock is the
kernel's (flock): it is free again when its process ends, however that happens. Only its empty file stays.
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
    """Hold the lock of this name for the block, waiting for it; do without where no file can be made."""
    try:
        file = _lock_path(name).open("a")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock_path(name: str) -> Path:
    import hashlib  # these two cost every worker's start, and few stages set up the node
    import tempfile

    shared = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = private_folder(shared / f"gpuexec-{os.getuid()}")
    return folder / f"setup-on-node-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
