"""How tests wait for what another process does."""

from __future__ import annotations

import math
import select
import subprocess
import time
from collections.abc import Callable

ENDS_WITHIN_S = 5.0 + 10.0
"""For a run that is interrupted: the 5 s that it may take, and what a loaded machine may add to them.

`tests/unit/driver/test_shutdown.py` asserts that the times which such a run gives its workers are less than 5 s.
"""


def wait_until(
    happened: Callable[[], object], *, running: subprocess.Popen[str] | None = None, within_s: float | None = None
) -> None:
    """Return once ``happened()`` is true, or fail if the process ``running`` ends first.

    It checks every millisecond, so the process it waits for gets the CPU. The test's own time limit bounds the wait;
    with ``within_s``, it raises ``TimeoutError`` after so many seconds.
    """
    deadline = math.inf if within_s is None else time.monotonic() + within_s
    while not happened():
        if running is not None and running.poll() is not None and not happened():
            raise AssertionError(f"the process ended early, with {running.returncode}: {running.args}")
        if time.monotonic() > deadline:
            raise TimeoutError
        select.select([], [], [], 0.001)
