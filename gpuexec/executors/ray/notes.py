"""What workers tell the ledger, and what the driver reads from it. ``at`` is a POSIX time in seconds."""

from __future__ import annotations

from gpuexec.channel.messages import BatchStats, Failed
from gpuexec.records import Record

BlockKey = tuple[int, ...]
BatchId = tuple[int, BlockKey, int]
"""A batch: the stage, the key of its first task, and its number of tasks; 0 stands for a whole block."""


class Enrolled(Record):
    """A process runs a stage from now on. ``gpus``: UUIDs of its GPUs."""

    at: float
    stage_index: int
    worker_id: str
    node: str
    pid: int
    gpus: tuple[str, ...] = ()


class NodeReady(Record):
    """``setup_on_node`` of a stage returned on a node."""

    at: float
    stage_index: int
    node: str
    seconds: float


class WorkerIsReady(Record):
    """A worker's ``setup`` returned."""

    at: float
    stage_index: int
    worker_id: str
    seconds: float


class BlockDone(Record):
    """A worker finished a block of tasks. ``began``: when it got the block. ``task_ids``: of its first tasks.

    ``calls``: of the stage, one by one, if they were asked for.
    """

    at: float
    stage_index: int
    worker_id: str
    began: float
    tasks_out: int
    stats: BatchStats
    task_ids: tuple[str, ...]
    calls: tuple[tuple[float, float, float, float, int, dict[str, float]], ...] = ()


class AttemptFailed(Record):
    """An attempt at a batch failed, or one to set up a worker, if there are no ``task_ids``.

    ``action`` and ``reason``: values of ``core.retries``.
    """

    at: float
    stage_index: int
    worker_id: str
    task_ids: tuple[str, ...]
    elapsed_s: float
    error: str
    action: str
    reason: str


class GaveUp(Record):
    """Tasks were quarantined."""

    at: float
    stage_index: int
    worker_id: str
    task_ids: tuple[str, ...]
    error: str


class WorkerLeft(Record):
    """A worker tore down. ``teardown_s``: how long that took; ``None`` if it raised."""

    at: float
    stage_index: int
    worker_id: str
    teardown_s: float | None


class RunFailed(Record):
    """The run has to end. ``failed``: what the stage raised; ``None`` if its worker died, for the reason in ``cause``.

    ``too_many``: the text of `TooManyQuarantined`, whose cause the failure is.
    """

    at: float
    stage_index: int
    worker_id: str
    task_ids: tuple[str, ...]
    phase: str
    failed: Failed | None = None
    cause: str = ""
    too_many: str | None = None
    earlier: tuple[str, ...] = ()


Note = Enrolled | NodeReady | WorkerIsReady | BlockDone | AttemptFailed | GaveUp | WorkerLeft | RunFailed
