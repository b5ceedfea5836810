"""The executor's own report: totals per stage and per worker, and every failed attempt.

The executor keeps it beside the stats on the tasks because those are lost with the tasks: a batch whose every task was
filtered out leaves no task to carry its stats, and neither does a failed one (Curator#2296).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.contract.metrics import merge_metrics
from gpuexec.records import MutableRecord, Record

if TYPE_CHECKING:
    from gpuexec.hardware.provenance import Provenance


class WorkerReport(MutableRecord):
    """One worker process. Times are in seconds, ``None`` where the worker did not get that far.

    ``start_reason``: why it was started, in words. ``exit_code`` is -N after signal N. ``warm``: it was forked from a
    template. ``cpu_s`` and ``max_rss_bytes``: CPU time and peak resident memory, of it and of the processes that it has
    waited for.
    """

    worker_id: str
    stage_index: int
    stage_name: str
    pid: int
    start_reason: str
    spawn_s: float | None = None  # until its interpreter was up
    load_s: float | None = None  # to unpickle the stage
    setup_s: float | None = None
    first_batch_process_s: float | None = None
    later_batches_process_s: float = 0.0
    idle_s: float = 0.0
    teardown_s: float | None = None
    batches: int = 0
    exit_code: int | None = None
    warm: bool = False
    cpu_s: float | None = None
    max_rss_bytes: int | None = None


class TemplateReport(MutableRecord):
    """A template process: the stages whose modules it has imported, in ``import_s`` seconds.

    ``kept``: an earlier run of the program had left it.
    """

    pid: int
    stage_names: tuple[str, ...]
    import_s: float
    kept: bool


class StageReport(MutableRecord):
    """One stage. Times are in seconds and summed over its workers; sizes are bytes of pickled tasks.

    ``lead_index``: the stage whose workers run it, another one if it is fused with stages before it. ``plan_reason``:
    why the plan gave it its workers, in words. ``failed_attempts`` counts failed attempts at batches:
    one batch may fail several times. ``node_setup_gpu_growth_bytes``: GPU memory, by UUID, that ``setup_on_node`` left
    in use.
    """

    index: int
    name: str
    plan_reason: str
    lead_index: int
    batches: int = 0
    failed_attempts: int = 0
    tasks_in: int = 0
    tasks_out: int = 0
    quarantined: int = 0  # tasks
    items: int = 0
    process_s: float = 0.0
    receive_s: float = 0.0
    send_s: float = 0.0
    idle_s: float = 0.0
    transfer_s: float = 0.0  # between driver and worker, both ways, including the wait behind other batches
    queued_s: float = 0.0  # in the stage's queue, summed over tasks
    input_bytes: int = 0
    output_bytes: int = 0
    spilled_bytes: int = 0  # of its input, written to disk while an earlier phase ran
    node_setup_s: float | None = None
    node_setup_gpu_growth_bytes: tuple[tuple[str, int], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


class FailedAttempt(Record):
    """One failed attempt at a batch, or to set up a worker (then ``task_ids`` is empty).

    ``elapsed_s``: seconds since the batch was sent, 0 for a set-up. ``error``: the exception or the cause of death, in
    words. ``action``: "retry", "split", "quarantine" or "raise". ``reason``: why that action, in words. ``stacks``: the
    threads of a worker that exceeded a time limit. ``capsule``: the folder for ``gpuexec replay``.
    """

    stage_index: int
    stage_name: str
    worker_id: str
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    action: str
    reason: str
    stacks: str | None = None
    capsule: str | None = None


class Quarantined(Record):
    """A task that the run went on without, and the error of the stage that failed on it."""

    stage_index: int
    stage_name: str
    task_id: str
    error: str


class RunReport(MutableRecord):
    """One run. ``error`` is ``None`` after success. ``interrupted``: the program or a signal ended it; nothing failed.

    ``wall_s``: seconds from the finished plan until the last worker was reaped, ``None`` while the run goes on.
    ``gpus_before``, ``gpus_after``: the state of its GPUs, ``None`` if no stage uses any.

    The lists of workers, failures, quarantined tasks and notes keep their newest 10,000 entries each, since a run may
    go on indefinitely.
    """

    stages: list[StageReport] = field(default_factory=list)
    workers: list[WorkerReport] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    templates: list[TemplateReport] = field(default_factory=list)
    gpus_before: Provenance | None = None
    gpus_after: Provenance | None = None
    wall_s: float | None = None
    error: str | None = None
    interrupted: bool = False


_MAX_RECORDS = 10_000


def _add(records: list[Any], *new: Any) -> None:
    records += new
    if len(records) > _MAX_RECORDS:
        del records[: len(records) - _MAX_RECORDS]


class ReportBuilder:
    """Builds the report of one run from its events. ``report`` is complete once the run has ended."""

    def __init__(self) -> None:
        self.report = RunReport()
        self._started_at = 0.0
        self._live_workers: dict[str, WorkerReport] = {}

    def on_event(self, event: events.RunEvent) -> None:
        """Add an event to the report."""
        report = self.report
        match event:
            case events.BatchesFinished():
                self._add_batches(event)
            case events.RunStarted():
                self._begin(event)
            case events.WorkerStarted() | events.WorkerLoaded() | events.WorkerReady() | events.WorkerStopped():
                self._update_worker(event)
            case events.NodeSetUp() | events.PayloadsSpilled() | events.TemplateLoaded():
                self._add_preparation(event)
            case events.BatchFailed():
                self._add_failure(event)
            case events.TasksQuarantined():
                self._add_quarantined(event)
            case events.Noticed():
                _add(report.notes, event.text)
            case events.GpusRead():
                report.gpus_before, report.gpus_after = event.before, event.after
                _add(report.notes, *event.notes)
            case events.RunEnded():
                report.wall_s = event.at - self._started_at
                report.error, report.interrupted = event.error, event.interrupted

    def _begin(self, event: events.RunStarted) -> None:
        self._started_at = event.at
        self.report.notes = list(event.plan.notes)
        planned = [stage for phase in event.plan.phases for stage in phase.stages]
        reasons = {stage.stage_index: stage.reason for stage in planned}
        leads: dict[int, int] = {}
        for stage in planned:
            leads |= dict.fromkeys(stage.fused, stage.stage_index)
            reasons |= dict.fromkeys(stage.fused, f"fused: it runs in the workers of {stage.name!r}")
        self.report.stages = [
            StageReport(i, name, reasons.get(i, ""), leads.get(i, i)) for i, name in enumerate(event.stage_names)
        ]

    def _add_worker(self, event: events.WorkerStarted) -> None:
        worker = WorkerReport(
            worker_id=event.worker_id,
            stage_index=event.stage_index,
            stage_name=self.report.stages[event.stage_index].name,
            pid=event.pid,
            start_reason=event.reason,
            warm=event.warm,
        )
        self._live_workers[event.worker_id] = worker
        _add(self.report.workers, worker)

    def _update_worker(
        self, event: events.WorkerStarted | events.WorkerLoaded | events.WorkerReady | events.WorkerStopped
    ) -> None:
        if isinstance(event, events.WorkerStarted):
            self._add_worker(event)
            return
        worker = self._live_workers[event.worker_id]
        match event:
            case events.WorkerLoaded():
                worker.spawn_s, worker.load_s = event.spawn_s, event.load_s
            case events.WorkerReady():
                worker.setup_s = event.setup_s
            case events.WorkerStopped():
                worker.exit_code, worker.teardown_s = event.exit_code, event.teardown_s
                worker.cpu_s, worker.max_rss_bytes = event.cpu_s, event.max_rss_bytes
                del self._live_workers[event.worker_id]

    def _add_preparation(self, event: events.NodeSetUp | events.PayloadsSpilled | events.TemplateLoaded) -> None:
        stages = self.report.stages
        if isinstance(event, events.TemplateLoaded):
            names = tuple(stages[index].name for index in event.stage_indices)
            self.report.templates.append(TemplateReport(event.pid, names, event.seconds, event.kept))
            return
        stage = stages[event.stage_index]
        if isinstance(event, events.PayloadsSpilled):
            stage.spilled_bytes += event.bytes
        else:
            stage.node_setup_s, stage.node_setup_gpu_growth_bytes = event.seconds, event.gpu_growth_bytes

    def _add_failure(self, event: events.BatchFailed) -> None:
        stage = self.report.stages[event.stage_index]
        if event.batch_id is not None:
            stage.failed_attempts += 1
        failure = FailedAttempt(
            stage_index=event.stage_index,
            stage_name=stage.name,
            worker_id=event.worker_id,
            task_ids=event.task_ids,
            elapsed_s=event.elapsed_s,
            error=event.error,
            action=event.action,
            reason=event.reason,
            stacks=event.stacks,
            capsule=event.capsule,
        )
        _add(self.report.failures, failure)

    def _add_quarantined(self, event: events.TasksQuarantined) -> None:
        stage = self.report.stages[event.stage_index]
        name = stage.name
        stage.quarantined += len(event.task_ids)
        for task_id in event.task_ids:
            task = Quarantined(stage_index=event.stage_index, stage_name=name, task_id=task_id, error=event.error)
            _add(self.report.quarantined, task)

    def _add_batches(self, event: events.BatchesFinished) -> None:
        stats, stage = event.stats, self.report.stages[event.stage_index]
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
        worker = self._live_workers[event.worker_id]
        worker.batches += stats.batches
        worker.idle_s += stats.idle_s
        if worker.first_batch_process_s is None:
            worker.first_batch_process_s = stats.process_s
        else:
            worker.later_batches_process_s += stats.process_s
