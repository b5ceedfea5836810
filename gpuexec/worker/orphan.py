"""A worker must not outlive its driver, however the driver dies.

Three nets: end of file on the driver's socket (seen between batches), the kernel's parent-death signal
(seen at once, also inside a long C call), and the run's guardian process, which kills what the first two
cannot reach: processes that a stage started (see ``supervise/guardian.py``).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; exit if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the signal was armed
        os._exit(1)
