"""A worker must not outlive its driver, however the driver dies.

Three mechanisms ensure that:

1. End of file on the driver's socket, which the worker sees between batches.
2. The kernel's parent-death signal, which also ends a long C call.
3. The run's guardian process. It kills the processes that a stage started, which the first two do not reach
   (see `gpuexec.processes.guardian`).
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; exit if it already has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # the parent died before the signal was armed
        os._exit(1)
