"""A thread that writes a run's folder, so that a slow or hanging disk never holds the run back.

It only compresses, writes and renames, which Python does without its global lock. What must be written comes in order.
Where too much of it waits, since the disk is slower than the run, it is dropped and counted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from gpuexec.units import MIB

_MOST_WAITING = 64 * MIB

Step = Callable[[], object]


class FolderWriter:
    """Runs steps in a thread, one after the other.

    ``error``: the first one that a step has raised. Later steps are still taken, since a disk may have room again.
    ``dropped``: how many steps were dropped.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.dropped = 0
        self._submitted = 0  # bytes, which only the caller counts
        self._done = 0  # bytes, which only the thread counts
        self._steps: queue.SimpleQueue[tuple[Step, int] | None] = queue.SimpleQueue()
        # A daemon: a hanging disk must not keep the program from ending either.
        self._thread = threading.Thread(target=self._run, name="gpuexec-run-folder", daemon=True)
        self._thread.start()

    def submit(self, step: Step, size: int = 0, *, needed: bool = False) -> bool:
        """Have a step taken; return whether it will be. ``size``: bytes that it holds in memory.

        ``needed``: it is not dropped.
        """
        if self._submitted - self._done > _MOST_WAITING and not needed:
            self.dropped += 1
            return False
        self._submitted += size
        self._steps.put((step, size))
        return True

    def close(self, timeout_s: float) -> bool:
        """Wait until all is written, for some seconds; return whether it is."""
        self._steps.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._steps.get()) is not None:
            step, size = item
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a bug must not pass unseen either: the caller raises it
                self.error = self.error or error
            finally:
                self._done += size
            del item, step  # what they hold is not kept while this thread waits
