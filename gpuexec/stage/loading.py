"""Whether this process is importing a stage.

A script that starts a run at module level starts it again when a worker imports the script to unpickle its stage.
That run would never end, so executors refuse to start one while a stage is being loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_in_progress = False


@contextlib.contextmanager
def loading_stage() -> Iterator[None]:
    """Mark the block as the import of a stage's modules."""
    global _in_progress  # noqa: PLW0603 - it describes the process
    _in_progress = True
    try:
        yield
    finally:
        _in_progress = False


def is_loading_stage() -> bool:
    """Whether a `loading_stage` block is being executed."""
    return _in_progress
