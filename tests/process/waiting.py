"""How tests wait for what another process does."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable


def wait_until(happened: Callable[[], object], *, running: subprocess.Popen[str] | None = None) -> None:
    """Return once ``happened()`` is true, or fail if the process ``running`` ends first.

    It looks every millisecond, so the process it waits for gets the CPU. The test's own time limit bounds the wait.
    """
    while not happened():
        if running is not None and running.poll() is not None and not happened():
            raise AssertionError(f"the process ended early, with {running.returncode}: {running.args}")
        select.select([], [], [], 0.001)
