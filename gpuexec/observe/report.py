"""The executor's own ledger: one record per batch attempt, added up per stage and per worker.

It is kept beside the figures on the tasks because those are lost with the tasks: a batch whose every task
was filtered out leaves no task to carry its figures, and neither does a failed one (Curator#2296).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.contract.metrics import merge_metrics

if TYPE_CHECKING:
    from gpuexec.hardware.provenance import Provenance


@dataclass(slots=True)
class WorkerReport:
    """One worker process; times in seconds, ``None`` where that point was never reached."""

    worker_id: str
    stage: int
    pid: int
    why: str  # it was started
    spawn_s: float | None = None
    load_s: float | None = None
    setup_s: float | None = None
    first_batch_s: float | None = None
    steady_s: float = 0.0  # processing after the first batch
    idle_s: float = 0.0
    teardown_s: float | None = None
    batches: int = 0
    exit_code: int | None = None


@dataclass(slots=True)
class StageReport:
    """One stage; times in seconds summed over its workers, sizes in bytes of pickled tasks."""

    index: int
    name: str
    plan_reason: str
    batches: int = 0
    failed_batches: int = 0
    tasks_in: int = 0
    tasks_out: int = 0
    items: int = 0
    process_s: float = 0.0
    receive_s: float = 0.0
    send_s: float = 0.0
    idle_s: float = 0.0
    transfer_s: float = 0.0  # between driver and worker, both ways, waiting behind other batches included
    queued_s: float = 0.0  # sum over tasks
    input_bytes: int = 0
    output_bytes: int = 0
    node_setup_s: float | None = None
    node_setup_gpu_growth: tuple[tuple[str, int], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FailedBatch:
    """One failed attempt at a batch, or at a set-up. ``verdict``: what was done about it."""

    stage: int
    worker_id: str
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    verdict: str = ""
    stacks: str | None = None
    capsule: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A task that was given up, at which stage and why."""

    stage: int
    task_id: str
    error: str


@dataclass(slots=True)
class RunReport:
    """One run. ``error`` is ``None`` after success; ``wall_s`` runs from the plan to the last reaped worker.

    Of workers, failures, quarantined tasks and notes the newest 10,000 are kept each: a run may never end.
    """

    stages: list[StageReport] = field(default_factory=list)
    workers: list[WorkerReport] = field(default_factory=list)
    failures: list[FailedBatch] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gpus: tuple[Provenance, Provenance] | None = None  # before and after, of a run that used some
    wall_s: float | None = None
    error: str | None = None


_MAX_RECORDS = 10_000


def _add(records: list[Any], *new: Any) -> None:
    records += new
    if len(records) > _MAX_RECORDS:
        del records[: len(records) - _MAX_RECORDS]


class ReportBuilder:
    """Reads the events of one run; ``report`` is complete when the run has ended."""

    def __init__(self) -> None:
        self.report = RunReport()
        self._began = 0.0
        self._workers: dict[str, WorkerReport] = {}

    def on_event(self, event: events.RunEvent) -> None:
        """Add an event to the sums."""
        match event:
            case events.BatchesFinished():
                self._add_batch(event)
            case events.RunStarted():
                self._begin(event)
            case events.WorkerStarted() | events.WorkerLoaded() | events.WorkerReady() | events.WorkerStopped():
                self._follow(event)
            case events.NodeSetUp():
                stage = self.report.stages[event.stage]
                stage.node_setup_s, stage.node_setup_gpu_growth = event.seconds, event.gpu_growth_bytes
            case events.BatchFailed():
                self._add_failure(event)
            case events.TasksQuarantined():
                _add(self.report.quarantined, *(Quarantined(event.stage, t, event.error) for t in event.task_ids))
            case events.Noticed():
                _add(self.report.notes, event.text)
            case events.GpusRead():
                self.report.gpus = (event.before, event.after)
                _add(self.report.notes, *event.notes)
            case events.RunEnded():
                self.report.wall_s = event.at - self._began
                self.report.error = event.error

    def _follow(
        self, event: events.WorkerStarted | events.WorkerLoaded | events.WorkerReady | events.WorkerStopped
    ) -> None:
        if isinstance(event, events.WorkerStarted):
            worker = self._workers[event.worker_id] = WorkerReport(event.worker_id, event.stage, event.pid, event.why)
            _add(self.report.workers, worker)
            return
        worker = self._workers[event.worker_id]
        match event:
            case events.WorkerLoaded():
                worker.spawn_s, worker.load_s = event.spawn_s, event.load_s
            case events.WorkerReady():
                worker.setup_s = event.setup_s
            case events.WorkerStopped():
                worker.exit_code, worker.teardown_s = event.exit_code, event.teardown_s
                del self._workers[event.worker_id]

    def _add_failure(self, event: events.BatchFailed) -> None:
        if event.batch_id is not None:
            self.report.stages[event.stage].failed_batches += 1
        _add(
            self.report.failures,
            FailedBatch(
                event.stage,
                event.worker_id,
                event.task_ids,
                event.elapsed_s,
                event.error,
                f"{event.action}: {event.reason}",
                event.stacks,
                event.capsule,
            ),
        )

    def _begin(self, event: events.RunStarted) -> None:
        self._began = event.at
        self.report.notes = list(event.plan.notes)
        reasons = {s.stage_index: s.reason for phase in event.plan.phases for s in phase.stages}
        self.report.stages = [StageReport(i, name, reasons.get(i, "")) for i, name in enumerate(event.stages)]

    def _add_batch(self, event: events.BatchesFinished) -> None:
        stats, stage = event.stats, self.report.stages[event.stage]
        stage.batches += stats.batches
        stage.tasks_in += stats.tasks_in
        stage.tasks_out += event.tasks_out
        stage.items += stats.items
        stage.process_s += stats.process_s
        stage.receive_s += stats.receive_s
        stage.send_s += stats.send_s
        stage.idle_s += stats.idle_s
        stage.transfer_s += max(0.0, event.in_worker_s - stats.busy_s)
        stage.queued_s += event.queued_s
        stage.input_bytes += stats.input_bytes
        stage.output_bytes += stats.output_bytes
        stage.metrics = merge_metrics(stage.metrics, stats.metrics)
        worker = self._workers[event.worker_id]
        worker.batches += stats.batches
        worker.idle_s += stats.idle_s
        if worker.first_batch_s is None:
            worker.first_batch_s = stats.process_s
        else:
            worker.steady_s += stats.process_s
