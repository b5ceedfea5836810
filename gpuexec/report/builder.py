"""Builds the report of one run from its events."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.contract.metrics import MAX_NAMES, is_own, merge_metrics
from gpuexec.core.worker_time import Work
from gpuexec.histogram import add_to
from gpuexec.report.model import (
    LOCK,
    FailedAttempt,
    Note,
    Quarantined,
    RunReport,
    SlowBatch,
    StageReport,
    TemplateReport,
    WorkerReport,
    add_record,
)

if TYPE_CHECKING:
    from gpuexec.report.node_series import NodeSeries

_SLOWEST = 20


class ReportBuilder:
    """Builds the report of one run from its events. ``report`` is complete once the run has ended."""

    def __init__(self) -> None:
        self.report = RunReport()
        self._started_at = 0.0
        self._live_workers: dict[str, WorkerReport] = {}
        self._slowest: list[tuple[float, int, SlowBatch]] = []  # a heap
        self._numbers = 0
        self._crowded: set[int] = set()  # stages with too many names of metrics

    def on_event(self, event: events.RunEvent) -> None:
        """Add an event to the report."""
        handle = _HANDLERS.get(type(event))
        if handle is not None:
            with LOCK:
                handle(self, event)

    def _begin(self, event: events.RunStarted) -> None:
        from gpuexec.report.timeline import StageTimeline

        self._started_at = event.at
        report = self.report
        report.notes = [Note(note, level="INFO") for note in event.plan.notes]
        report.facts, report.plan, report.started_at = event.facts, event.plan, event.posix_time
        planned = [stage for phase in event.plan.phases for stage in phase.stages]
        reasons = {stage.stage_index: stage.reason for stage in planned}
        leads: dict[int, int] = {}
        for stage in planned:
            leads |= dict.fromkeys(stage.fused, stage.stage_index)
            reasons |= dict.fromkeys(stage.fused, f"fused: it runs in the workers of {stage.name!r}")
        report.stages = [
            StageReport(i, name, reasons.get(i, ""), leads.get(i, i)) for i, name in enumerate(event.stage_names)
        ]
        report.timelines = [StageTimeline(event.at) for _ in report.stages]

    def _add_worker(self, event: events.WorkerStarted) -> None:
        worker = WorkerReport(
            worker_id=event.worker_id,
            stage_index=event.stage_index,
            stage_name=self.report.stages[event.stage_index].name,
            pid=event.pid,
            start_reason=event.reason,
            started_at=event.at - self._started_at,
            warm=event.warm,
            gpus=event.gpus,
        )
        self._live_workers[event.worker_id] = worker
        add_record(self.report.workers, worker)

    def _update_worker(self, event: events.WorkerLoaded | events.WorkerReady | events.WorkerStopped) -> None:
        worker = self._live_workers[event.worker_id]
        match event:
            case events.WorkerLoaded():
                worker.spawn_s, worker.load_s = event.spawn_s, event.load_s
            case events.WorkerReady():
                worker.setup_s, worker.ready_at = event.setup_s, event.at - self._started_at
            case events.WorkerStopped():
                worker.ended_at = event.at - self._started_at
                worker.exit_code, worker.teardown_s = event.exit_code, event.teardown_s
                worker.cpu_s, worker.max_rss_bytes = event.cpu_s, event.max_rss_bytes
                worker.end_reason = event.reason or None
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
            failed_at=event.at - self._started_at,
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
        add_record(self.report.failures, failure)

    def _add_quarantined(self, event: events.TasksQuarantined) -> None:
        stage = self.report.stages[event.stage_index]
        name = stage.name
        stage.quarantined += len(event.task_ids)
        for task_id in event.task_ids:
            task = Quarantined(stage_index=event.stage_index, stage_name=name, task_id=task_id, error=event.error)
            add_record(self.report.quarantined, task)

    def _add_time(self, event: events.TimeAccounted) -> None:
        report = self.report
        worker, stage = self._live_workers.get(event.worker_id), report.stages[event.stage_index]
        totals = [stage.time, *([worker.time] if worker is not None else [])]
        for part, seconds in event.parts:
            for total in totals:
                total[part] = total.get(part, 0.0) + seconds
        report.timelines[event.stage_index].account(event.began, event.at, event.parts)
        if worker is not None and worker.gpus:
            busy_s = sum(seconds for part, seconds in event.parts if part == Work.BUSY)
            busy = self._samples().busy
            busy.account(event.stage_index, event.worker_id, worker.gpus, event.began, event.at, busy_s)

    def _samples(self) -> NodeSeries:
        if self.report.samples is None:
            from gpuexec.report.node_series import NodeSeries

            self.report.samples = NodeSeries(self._started_at)
        return self.report.samples

    def _add_sample(self, event: events.NodeSampled) -> None:
        self._samples().add(event)

    def _stop_series(self, event: events.SeriesStopped) -> None:
        self._samples().stop(event)

    def _add_gpu_time(self, event: events.GpuTimeAccounted) -> None:
        parts = self.report.gpu_time.setdefault(event.uuid, {})
        parts[event.part] = parts.get(event.part, 0.0) + event.at - event.began

    def _add_plan_change(self, event: events.PlanDecided) -> None:
        add_record(self.report.plan_changes, (event.at - self._started_at, event))

    def _add_note(self, event: events.Noticed) -> None:
        at_s = time.monotonic() - self._started_at if self._started_at else 0.0
        add_record(self.report.notes, Note(event.text, at_s, event.level))

    def _add_gpu_states(self, event: events.GpusRead) -> None:
        report = self.report
        report.gpus_before, report.gpus_after = event.before, event.after
        report.doubts = list(event.notes)
        add_record(report.notes, *(Note(note, report.elapsed_s) for note in event.notes))

    def _end(self, event: events.RunEnded) -> None:
        report = self.report
        report.wall_s = report.elapsed_s = event.at - self._started_at
        report.error, report.interrupted = event.error, event.interrupted
        report.host_after = event.host

    def _add_gauges(self, event: events.Gauged) -> None:
        self.report.elapsed_s = event.at - self._started_at
        for timeline, gauges in zip(self.report.timelines, event.stages, strict=True):
            timeline.gauge(event.at, gauges.queued, gauges.workers)

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
        stage.rss_peak_bytes = max(stage.rss_peak_bytes, stats.rss_peak_bytes)
        if stats.metrics:
            self._add_metrics(stage, stats.metrics)
        worker = self._live_workers[event.worker_id]
        worker.batches += stats.batches
        worker.idle_s += stats.idle_s
        if worker.first_batch_process_s is None:
            worker.first_batch_process_s = stats.process_s
        else:
            worker.later_batches_process_s += stats.process_s
        if stats.histogram:
            self._add_service_times(event, stage)

    def _add_metrics(self, stage: StageReport, metrics: Mapping[str, float]) -> None:
        """Add up metrics, those of new names only while there is room. A new dict: other threads may read the old."""
        known = stage.metrics
        new = [name for name in metrics if name not in known and not is_own(name)]
        room = MAX_NAMES - sum(not is_own(name) for name in known) if new else 0
        if len(new) > room:
            self._note_too_many_metrics(stage)
            left_out = set(new[room:])
            metrics = {name: value for name, value in metrics.items() if name not in left_out}
        stage.metrics = merge_metrics(known, metrics)

    def _note_too_many_metrics(self, stage: StageReport) -> None:
        if stage.index in self._crowded:
            return
        self._crowded.add(stage.index)
        text = (
            f"stage {stage.name!r} logs metrics under more than {MAX_NAMES:,} names, and the report has the first "
            "ones: a name should stand for a kind of figure, not for a single task"
        )
        add_record(self.report.notes, Note(text, self.report.elapsed_s))

    def _add_service_times(self, event: events.BatchesFinished, stage: StageReport) -> None:
        stats, start = event.stats, self._started_at
        add_to(stage.service_times, stats.histogram)
        shortest, longest = stage.shortest_s, stage.longest_s
        stage.shortest_s = stats.shortest_s if shortest is None else min(shortest, stats.shortest_s)
        stage.longest_s = stats.longest_s if longest is None else max(longest, stats.longest_s)
        if stage.first_at is None:
            stage.first_at = stats.began - start
        stage.last_at = stats.ended - start
        self.report.timelines[stage.index].finish(stats.began, stats.ended, stats.tasks_in)
        if event.slowest:
            self._add_slow_batch(event, stage)

    def _add_slow_batch(self, event: events.BatchesFinished, stage: StageReport) -> None:
        stats = event.stats
        if len(self._slowest) == _SLOWEST and stats.longest_s <= self._slowest[0][0]:
            return
        slow = SlowBatch(
            stage_index=stage.index,
            worker_id=event.worker_id,
            task_ids=event.slowest,
            ended_at=stats.ended - self._started_at,
            process_s=stats.longest_s,
            tasks=stats.tasks_in if stats.batches == 1 else None,
        )
        self._numbers += 1  # orders those that took equally long
        heapq.heappush(self._slowest, (stats.longest_s, self._numbers, slow))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)
        self.report.slowest = [batch for _, _, batch in sorted(self._slowest, reverse=True)]


_HANDLERS: dict[type, Callable[[Any, Any], None]] = {
    events.RunStarted: ReportBuilder._begin,
    events.TemplateLoaded: ReportBuilder._add_preparation,
    events.WorkerStarted: ReportBuilder._add_worker,
    events.WorkerLoaded: ReportBuilder._update_worker,
    events.NodeSetUp: ReportBuilder._add_preparation,
    events.WorkerReady: ReportBuilder._update_worker,
    events.BatchesFinished: ReportBuilder._add_batches,
    events.TimeAccounted: ReportBuilder._add_time,
    events.GpuTimeAccounted: ReportBuilder._add_gpu_time,
    events.BatchFailed: ReportBuilder._add_failure,
    events.TasksQuarantined: ReportBuilder._add_quarantined,
    events.WorkerStopped: ReportBuilder._update_worker,
    events.Gauged: ReportBuilder._add_gauges,
    events.NodeSampled: ReportBuilder._add_sample,
    events.SeriesStopped: ReportBuilder._stop_series,
    events.PlanDecided: ReportBuilder._add_plan_change,
    events.Noticed: ReportBuilder._add_note,
    events.PayloadsSpilled: ReportBuilder._add_preparation,
    events.GpusRead: ReportBuilder._add_gpu_states,
    events.RunEnded: ReportBuilder._end,
}
