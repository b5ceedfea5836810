"""How many tasks to pickle into one block."""

from __future__ import annotations

from gpuexec.units import KIB


class BlockSizer:
    """Chooses block sizes from the sizes of past tasks.

    A block must be large enough to share the cost of pickling among its tasks, and small enough to be divided among
    workers.
    """

    _TARGET_BYTES = 32 * KIB
    _MAX_TASKS = 256

    def __init__(self) -> None:
        self._task_bytes = float(self._TARGET_BYTES)  # so the first block has one task, until sizes are known

    def next(self) -> int:
        """Return the number of tasks for the next block."""
        return max(1, min(self._MAX_TASKS, int(self._TARGET_BYTES / self._task_bytes)))

    def learn(self, tasks: int, size: int) -> None:
        """Update the mean size of a task from a block. It adapts fast: a stage's tasks are mostly of one size."""
        self._task_bytes += 0.5 * (size / tasks - self._task_bytes)
