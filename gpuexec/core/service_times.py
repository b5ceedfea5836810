"""How long a stage's batches and tasks take, as a running mean of what its workers report."""

from __future__ import annotations

from gpuexec.channel.messages import BatchStats

_WEIGHT = 0.2  # of the newest service time in the running mean
_MIN_REPORTS = 2  # before the times are worth planning with; one of a long batch is enough
_MIN_COLD_REPORTS = 10  # the same for workers that have just started
_LONG_BATCH_S = 0.02  # against which a pause of the scheduler does not matter much


class ServiceTimes:
    """Measured service times of one stage, in seconds. ``None``: nothing reported yet.

    Of an asynchronous stage they are what a batch takes of its worker, which has several in flight: the batch's own
    time divided by their number.

    ``busy_s`` and ``idle_s`` are summed over its warm workers.
    """

    __slots__ = (
        "_cold_reports",
        "_first",
        "_startup_s",
        "_warm_reports",
        "batch_bytes",
        "batch_s",
        "busy_s",
        "idle_s",
        "task_s",
    )

    def __init__(self) -> None:
        self.batch_s: float | None = None
        self.batch_bytes = 0.0
        self.task_s: float | None = None
        self.busy_s = self.idle_s = 0.0
        self._startup_s: float | None = None
        self._first: tuple[float, int] | None = None  # seconds and tasks of the quickest first batches of a worker
        self._warm_reports = self._cold_reports = 0

    def add(self, stats: BatchStats, *, warm: bool) -> None:
        """Update the means of a batch's service time and size, and of a task's service time.

        A worker's first batches may include imports and allocations, and its idle time before them is other workers'
        start-up. Stats of a cold worker are used only until a warm one has reported.
        """
        if not warm:
            self._cold_reports += 1
            first = (stats.slot_s or stats.busy_s, stats.tasks_in)
            self._first = min(self._first or first, first)
            if self._warm_reports:
                return
        busy_s = stats.slot_s or stats.busy_s
        batch_s, batch_bytes = busy_s / stats.batches, stats.input_bytes / stats.batches
        task_s = busy_s / max(1, stats.tasks_in)
        if warm:
            self.busy_s += busy_s
            self.idle_s += stats.idle_s + max(0.0, stats.busy_s - busy_s)
            self._warm_reports += 1
        if self._warm_reports < 2 or self.batch_s is None or self.task_s is None:
            self.batch_s, self.batch_bytes, self.task_s = batch_s, batch_bytes, task_s
            return
        weight = max(_WEIGHT, 1 / self._warm_reports)  # the first few count equally
        self.batch_s += weight * (batch_s - self.batch_s)
        self.batch_bytes += weight * (batch_bytes - self.batch_bytes)
        self.task_s += weight * (task_s - self.task_s)

    def add_startup(self, seconds: float) -> None:
        """Keep the shortest start-up seen; longer ones include waiting for other workers' setup."""
        self._startup_s = seconds if self._startup_s is None else min(self._startup_s, seconds)

    @property
    def startup_s(self) -> float | None:
        """Return how long it takes until a new worker does what the others do: from spawn to ready, and the time by
        which its first batches are slower than later ones, since they import what the stage needs."""
        if self._startup_s is None or self._first is None or self.task_s is None or not self._warm_reports:
            return self._startup_s
        seconds, tasks = self._first
        return self._startup_s + max(0.0, seconds - tasks * self.task_s)

    @property
    def is_measured(self) -> bool:
        """Whether the times are worth planning with."""
        if self._warm_reports >= _MIN_REPORTS or self._cold_reports >= _MIN_COLD_REPORTS:
            return True
        return self._warm_reports > 0 and self.batch_s is not None and self.batch_s >= _LONG_BATCH_S
