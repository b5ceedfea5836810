"""The events that a run emits to its observers.

They are frozen. ``at`` is a time of the monotonic clock, in seconds; fields ending in ``_s`` are durations in seconds.
``stage_index`` is the stage's position in the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from gpuexec.channel.messages import BatchStats, LogLine
from gpuexec.planning.model import Plan
from gpuexec.records import Record
from gpuexec.run_facts import HostState, RunFacts

if TYPE_CHECKING:
    from gpuexec.hardware.process_readings import ProcessSample
    from gpuexec.hardware.provenance import Provenance
    from gpuexec.hardware.telemetry import GpuSample
    from gpuexec.planning.balance import ThroughputLimit
    from gpuexec.planning.rebalance import ActionReason


class RunStarted(Record):
    """The plan is made; workers are about to start. ``posix_time``: the same moment as ``at``, in seconds."""

    at: float
    plan: Plan
    stage_names: tuple[str, ...]
    facts: RunFacts = RunFacts()
    posix_time: float = 0.0


class TemplateLoaded(Record):
    """The template of these stages has imported their modules, in ``seconds``; workers are forked from it.

    ``kept``: an earlier run of this program had left it, so it had imported most of them already.
    """

    at: float
    stage_indices: tuple[int, ...]
    pid: int
    seconds: float
    kept: bool


class WorkerStarted(Record):
    """A worker process was started; ``reason`` says why, in words. ``warm``: it was forked from a template.

    ``gpus``: UUIDs of its GPUs.
    """

    at: float
    stage_index: int
    worker_id: str
    pid: int
    reason: str
    warm: bool = False
    gpus: tuple[str, ...] = ()


class WorkerLoaded(Record):
    """A worker has unpickled its stage: the interpreter took ``spawn_s`` to start, the stage ``load_s`` to load."""

    at: float
    stage_index: int
    worker_id: str
    spawn_s: float
    load_s: float


class NodeSetUp(Record):
    """A stage's ``setup_on_node`` returned.

    ``gpu_growth_bytes``: by how much the used memory of each GPU (by UUID) grew and stayed after its process ended.
    """

    at: float
    stage_index: int
    seconds: float
    gpu_growth_bytes: tuple[tuple[str, int], ...] = ()


class WorkerReady(Record):
    """A worker's ``setup`` returned."""

    at: float
    stage_index: int
    worker_id: str
    setup_s: float


class BatchesFinished(Record):
    """A stage finished batches: one, or several tiny ones that one message reported.

    ``slowest``: the ids of the first tasks of the longest of them, if it is among the longest of its stage so far.
    ``first_task_ids``: of up to 16 inputs of the batch, or of 2 of the first of several; none of stages that are fused
    with an earlier one.
    """

    at: float
    stage_index: int
    worker_id: str
    batch_ids: tuple[int, ...]
    tasks_out: int
    queued_s: float  # time in the stage's queue, summed over the input tasks
    in_worker_s: float  # from sending to the last result, transfer and prefetch included; summed over the batches
    stats: BatchStats
    slowest: tuple[str, ...] = ()
    first_task_ids: tuple[str, ...] = ()


class StageCall(Record):
    """One call of a stage's ``process_batch`` that has returned.

    ``began``, ``ended``: when. ``process_s``, ``idle_s``, ``items``: as in the batch's ``StagePerfStats``. ``metrics``:
    the stage's own and the executor's.
    """

    began: float
    ended: float
    process_s: float
    idle_s: float
    items: int
    metrics: Mapping[str, float]


class CallsRecorded(Record):
    """Calls of a stage, one by one; emitted only if NeMo Curator's pipeline asks for performance records.

    A call counts once, however many tasks it has returned, and only if its batch is complete: others are made again.
    """

    at: float
    stage_index: int
    worker_id: str
    calls: tuple[StageCall, ...]


class TimeAccounted(Record):
    """What a worker did from ``began`` to ``at``.

    ``parts``: seconds by what they went to, values of ``core.worker_time.Work`` and ``IdleReason``. They add up to the
    interval. A worker's intervals follow each other, from its spawn to its end.
    """

    at: float
    stage_index: int
    worker_id: str
    began: float
    parts: tuple[tuple[str, float], ...]


class GpuTimeAccounted(Record):
    """A GPU was busy with the batches of its workers from ``began`` to ``at``, or idle.

    ``part``: "busy", or a value of ``core.worker_time.IdleReason``.
    """

    at: float
    uuid: str
    began: float
    part: str


class BatchFailed(Record):
    """An attempt at a batch failed, or, where ``batch_id`` is ``None``, an attempt to set up a worker.

    ``elapsed_s``: since the batch was sent, 0 for a set-up. ``error``: the exception or the cause of death, in words.
    ``action``: "retry", "split", "quarantine" or "raise", a value of ``core.retries.Action``. ``reason``: why, a value
    of ``core.retries.DecisionReason``. ``stacks``: the threads of a worker that exceeded a time limit. ``capsule``: the
    folder for ``gpuexec replay``.
    """

    at: float
    stage_index: int
    worker_id: str
    batch_id: int | None
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    action: str
    reason: str
    stacks: str | None = None
    capsule: str | None = None


class TasksQuarantined(Record):
    """Tasks were quarantined: the run goes on without them."""

    at: float
    stage_index: int
    worker_id: str
    task_ids: tuple[str, ...]
    error: str


class WorkerStopped(Record):
    """A worker process was reaped. ``teardown_s`` is ``None`` if it did not report the end of its teardown.

    ``cpu_s``, ``max_rss_bytes``: CPU time and peak resident memory, ``None`` if the kernel could not be asked.
    ``reason``: why it ended, in words.
    """

    at: float
    stage_index: int
    worker_id: str
    exit_code: int
    teardown_s: float | None
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    reason: str = ""


class StageGauges(Record):
    """One stage at one moment.

    ``done``, ``queued`` and ``in_flight`` count input tasks, ``made`` the outputs of those done, and ``workers`` the
    ready ones.
    """

    done: int
    queued: int
    in_flight: int
    workers: int
    starting: int
    finished: bool
    made: int = 0


class Gauged(Record):
    """All stages at one moment; emitted as often as the progress display needs it.

    ``tasks_left``: initial tasks that are not queued yet, ``None`` if their number is unknown.
    """

    at: float
    stages: tuple[StageGauges, ...]
    tasks_left: int | None = None


class NodeSampled(Record):
    """The run's GPUs, and the processes of the driver and of its workers, at one moment.

    Emitted by the driver's loop, which may be some time after ``at``. The first one comes ``sample_interval_s`` after
    the start. ``gpus`` is empty in a run that uses none, and once their series has stopped. ``interval_s``: from one
    sample to the next.
    """

    at: float
    gpus: tuple[GpuSample, ...]
    processes: tuple[ProcessSample, ...]
    interval_s: float = 0.5


class SeriesStopped(Record):
    """A source is not read any more, and why. Emitted once for each source.

    ``source``: "nvml" for all GPUs, a device's UUID for that one, or "sampler" for everything.
    """

    at: float
    source: str
    reason: str


class StageTarget(Record):
    """A stage's live workers, without those that are stopping, and how many it should have.

    ``task_s``: measured seconds of a worker for one task. ``tasks``: how many tasks are still to be done, or, while
    that is not known of every stage, how many tasks a source task becomes here. ``None``: not measured yet.
    """

    stage_index: int
    workers: int
    target: int
    task_s: float | None = None
    tasks: float | None = None


class PlanDecided(Record):
    """The planner compared the present workers with the best counts. Emitted only if the outcome is a new one.

    ``bottleneck``: stage index of the slowest stage at the target counts; ``None`` while no stage is measured.
    ``limit``: why the throughput cannot be higher. ``proven``: no other counts are better; otherwise the search was
    given up. ``reason``: why workers are started or stopped, or why not. ``stopped`` and ``started``: worker ids.
    ``gain_s``: expected seconds saved; ``None`` if a stage had no worker, since it would never have ended.
    ``throughput``: expected source tasks a second at the target counts, ``None`` while no stage is measured.
    """

    at: float
    bottleneck: int | None
    limit: ThroughputLimit
    proven: bool
    reason: ActionReason
    gain_s: float | None
    stopped: tuple[str, ...]
    started: tuple[str, ...]
    stages: tuple[StageTarget, ...]
    throughput: float | None = None


class WorkerLogged(Record):
    """A worker logged a record with loguru."""

    stage_index: int
    worker_id: str
    record: LogLine


class WorkerPrinted(Record):
    """A worker wrote lines to stdout or stderr."""

    stage_index: int
    worker_id: str
    lines: tuple[str, ...]


class Noticed(Record):
    """Something the user should know that does not end the run; ``level`` is a log level."""

    text: str
    level: str = "WARNING"


class PayloadsSpilled(Record):
    """What waits before a stage of a later phase was written to disk, since it does not fit in memory."""

    at: float
    stage_index: int
    bytes: int


class GpusRead(Record):
    """The state of the run's GPUs before and after it; ``notes`` say what makes its measurements doubtful."""

    before: Provenance
    after: Provenance
    notes: tuple[str, ...]


class RunEnded(Record):
    """The run is over; ``error`` is ``None`` after success. ``interrupted``: it has not failed, but was ended.

    ``host``: the machine at that moment.
    """

    at: float
    error: str | None
    interrupted: bool = False
    host: HostState = HostState()


RunEvent = (
    RunStarted
    | TemplateLoaded
    | WorkerStarted
    | WorkerLoaded
    | NodeSetUp
    | WorkerReady
    | BatchesFinished
    | CallsRecorded
    | TimeAccounted
    | GpuTimeAccounted
    | BatchFailed
    | TasksQuarantined
    | WorkerStopped
    | Gauged
    | NodeSampled
    | SeriesStopped
    | PlanDecided
    | WorkerLogged
    | WorkerPrinted
    | Noticed
    | PayloadsSpilled
    | GpusRead
    | RunEnded
)


class Observer(Protocol):
    """Receives every event of a run. It must not raise, and must not block for long: the driver waits for it."""

    def on_event(self, event: RunEvent, /) -> None:
        """Handle an event."""
