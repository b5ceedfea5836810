"""Samples of what the node does during a run, passed on by the driver's loop.

A run that ends within the first interval pays nothing: no thread is started, and nothing is imported for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.driver.share_watch import ShareWatch
from gpuexec.driver.worker_processes import WorkerProcesses
from gpuexec.planning.model import Plan

if TYPE_CHECKING:
    from gpuexec.observe.sampler import NodeSampler


class Telemetry:
    """The sampler of one run. ``interval_s``: between two samples, in seconds; ``None``: it takes none.

    ``next_due``: when `pass_on` has something to do, in seconds of the monotonic clock; ``None``: never.
    """

    def __init__(
        self,
        interval_s: float | None,
        plan: Plan,
        processes: WorkerProcesses,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._interval_s = interval_s
        self._plan = plan
        self._processes = processes
        self._emit = emit
        self._sampler: NodeSampler | None = None
        self._shares = ShareWatch()
        self.next_due: float | None = None

    def begin(self, now: float) -> None:
        """Note when the run begins: the first sample is due an interval later."""
        if self._interval_s is not None:
            self.next_due = now + self._interval_s

    def pass_on(self, now: float) -> None:
        """Emit what has been read, if it is time; the first time, begin to sample."""
        if self._interval_s is None or self.next_due is None or now < self.next_due:
            return
        self.next_due = now + self._interval_s
        workers = [(worker.worker_id, self._processes.pid(worker)) for worker in self._processes.workers]
        if self._sampler is None:
            from gpuexec.observe.sampler import NodeSampler

            self._sampler = NodeSampler(self._interval_s, self._plan.device_uuids(), workers)
            return
        self._sampler.watch(workers)
        self._emit_taken()

    def end(self) -> None:
        """Take a last sample, emit what is left, and end the thread; idempotent."""
        self.next_due = None
        if self._sampler is not None:
            self._sampler.stop()
            self._emit_taken()
            self._sampler = None

    def _emit_taken(self) -> None:
        for event in self._sampler.take() if self._sampler is not None else ():
            self._emit(event)
            if isinstance(event, events.NodeSampled):
                workers = {worker.worker_id: worker for worker in self._processes.workers}
                for notice in self._shares.notices(event.processes, workers):
                    self._emit(events.Noticed(notice))
