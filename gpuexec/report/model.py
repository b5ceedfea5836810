"""The report of a run: totals per stage, worker and GPU, time lines, plan changes, and every failed attempt.

The executor keeps it beside the stats on the tasks because those are lost with the tasks: a batch whose every task was
filtered out leaves no task to carry its stats, and neither does a failed one (Curator#2296).

Times are in seconds. Those that end in ``_at`` are seconds since the run's start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Self

from gpuexec.histogram import Histogram
from gpuexec.records import MutableRecord, Record
from gpuexec.run_facts import HostState, RunFacts

if TYPE_CHECKING:
    from gpuexec.events import PlanDecided
    from gpuexec.hardware.provenance import Provenance
    from gpuexec.planning.model import Plan
    from gpuexec.report.node_series import NodeSeries
    from gpuexec.report.timeline import StageTimeline

_MAX_RECORDS = 10_000

# Held while an event changes a report and while a report is read: any thread may read one of a run that goes on.
LOCK = threading.RLock()
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class WorkerReport(MutableRecord):
    """One worker process. Times are in seconds, ``None`` where the worker did not get that far.

    ``start_reason``, ``end_reason``: why it was started and ended, in words. ``exit_code`` is -N after signal N.
    ``warm``: it was forked from a template. ``cpu_s`` and ``max_rss_bytes``: CPU time and peak resident memory, of it
    and of the processes that it has waited for. ``time``: seconds by what they went to, values of
    ``core.worker_time.Work`` and ``IdleReason``; they add up to its life. ``gpus``: UUIDs.
    """

    worker_id: str
    stage_index: int
    stage_name: str
    pid: int
    start_reason: str
    started_at: float = 0.0
    ready_at: float | None = None
    ended_at: float | None = None
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
    end_reason: str | None = None
    gpus: tuple[str, ...] = ()
    time: dict[str, float] = field(default_factory=dict)


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
    in use. ``time``: what its workers' time went to, as in `WorkerReport`; a fused stage's is its lead's.
    ``service_times``: a histogram of ``process_s`` of its batches, with the shortest and the longest. ``first_at``,
    ``last_at``: when its first batch began and its last one ended.
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
    rss_peak_bytes: int = 0  # of any of its workers, after a batch
    node_setup_s: float | None = None
    node_setup_gpu_growth_bytes: tuple[tuple[str, int], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    service_times: Histogram = field(default_factory=dict)
    shortest_s: float | None = None
    longest_s: float | None = None
    first_at: float | None = None
    last_at: float | None = None


class FailedAttempt(Record):
    """One failed attempt at a batch, or to set up a worker (then ``task_ids`` is empty).

    ``elapsed_s``: seconds since the batch was sent, 0 for a set-up. ``error``: the exception or the cause of death, in
    words. ``action``: "retry", "split", "quarantine" or "raise". ``reason``: why that action, in words. ``stacks``: the
    threads of a worker that exceeded a time limit. ``capsule``: the folder for ``gpuexec replay``.
    """

    failed_at: float
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


class SlowBatch(Record):
    """One of the longest batches.

    ``task_ids``: of its first tasks. ``tasks``: how many it had, if it was reported alone.
    """

    stage_index: int
    worker_id: str
    task_ids: tuple[str, ...]
    ended_at: float
    process_s: float
    tasks: int | None = None


class Note(str):
    """Something the user should know, as text. ``at_s``: seconds since the start; ``level``: a log level."""

    __slots__ = ("at_s", "level")

    at_s: float
    level: str

    def __new__(cls, text: str, at_s: float = 0.0, level: str = "WARNING") -> Self:
        note = super().__new__(cls, text)
        note.at_s, note.level = at_s, level
        return note

    def __reduce__(self) -> tuple[Any, ...]:
        return Note, (str(self), self.at_s, self.level)


class RunReport(MutableRecord):
    """One run. ``error`` is ``None`` after success. ``interrupted``: the program or a signal ended it; nothing failed.

    ``facts``: its id, pipeline, options, versions and node. ``wall_s``: seconds from the finished plan until the last
    worker was reaped, ``None`` while the run goes on. ``gpus_before``, ``gpus_after``: the state of its GPUs, ``None``
    if no stage uses any. ``gpu_time``: seconds of each GPU, by UUID, by what they went to. ``timelines``: of each
    stage. ``samples``: what was sampled of GPUs and processes, ``None`` if nothing was. ``folder``: with this report,
    its page, the trace and the log; ``None`` if there is none, and until the run has ended.

    The lists of workers, failures, quarantined tasks, plan changes and notes keep their newest 10,000 entries each,
    since a run may go on indefinitely; ``slowest`` keeps the 20 longest batches.
    """

    stages: list[StageReport] = field(default_factory=list)
    workers: list[WorkerReport] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    templates: list[TemplateReport] = field(default_factory=list)
    slowest: list[SlowBatch] = field(default_factory=list)
    plan_changes: list[tuple[float, PlanDecided]] = field(default_factory=list)
    timelines: list[StageTimeline] = field(default_factory=list)
    gpu_time: dict[str, dict[str, float]] = field(default_factory=dict)
    samples: NodeSeries | None = None
    gpus_before: Provenance | None = None
    gpus_after: Provenance | None = None
    host_after: HostState | None = None  # the machine; facts.host is its state before the run
    doubts: list[str] = field(default_factory=list)  # what makes figures of GPUs doubtful: other processes, throttling
    facts: RunFacts | None = None
    started_at: float | None = None  # POSIX time
    plan: Plan | None = None
    elapsed_s: float = 0.0  # as of the newest event
    wall_s: float | None = None
    error: str | None = None
    interrupted: bool = False
    folder: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the run has ended and went through. Tasks may be in quarantine all the same."""
        return self.wall_s is not None and self.error is None and not self.interrupted

    @property
    def tasks_in(self) -> int:
        """Tasks that the first stage has done."""
        return self.stages[0].tasks_in if self.stages else 0

    @property
    def tasks_out(self) -> int:
        """Tasks that have come out of the last stage."""
        return self.stages[-1].tasks_out if self.stages else 0

    @property
    def throughput(self) -> float | None:
        """Tasks out of the last stage a second, start-up included; ``None`` before any time has passed."""
        seconds = self.wall_s or self.elapsed_s
        return self.tasks_out / seconds if seconds > 0 else None

    def stage(self, name: str) -> StageReport:
        """Return a stage by its name, the first one if several have it. Raises ``KeyError``, which lists the names."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"no stage {name!r}; there are {', '.join(repr(stage.name) for stage in self.stages) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, as ``report.json`` has it: see docs/report-json.md.

        Any thread may ask, also while the run goes on.
        """
        from gpuexec.report.as_dict import report_as_dict

        with LOCK:
            return report_as_dict(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict` as JSON."""
        import json

        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        from gpuexec.report.table import StageTable

        with LOCK:
            return "\n".join(StageTable(self).lines(100))

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        import html

        return f"<pre>{html.escape(str(self))}</pre>"


def add_record(records: list[Any], *new: Any) -> None:
    """Append to a list of which only the newest entries are kept."""
    records += new
    if len(records) > _MAX_RECORDS:
        del records[: len(records) - _MAX_RECORDS]
