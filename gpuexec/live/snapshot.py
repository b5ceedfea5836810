"""How far a run is, as a message for those who watch it.

::

    {"at": POSIX seconds, "seconds": since the start, "remaining_s", "bottleneck": stage index,
     "stages": [{fields of `StageView`}], "gpus": [{fields of `GpuView`}], "workers": [{…}], "workers_left_out": n,
     "tasks_out", "failed_attempts", "quarantined"}

A worker has ``id``, ``stage_index``, ``pid``, ``state`` ("starting", "ready"), ``age_s``, ``batches``, ``busy`` (the
part of its life), ``idle_reason`` (what most of the rest went to), ``gpus`` (indices or UUIDs), and where they have
been sampled ``rss_bytes`` and ``gpu_memory_bytes``. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuexec.observe.run_view import RunView, shares_between

if TYPE_CHECKING:
    from gpuexec.report.model import RunReport, WorkerReport

MOST_WORKERS = 200


def snapshot_of(view: RunView, report: RunReport, at: float) -> dict[str, Any]:
    """Return the message. ``at``: the present moment, POSIX time in seconds."""
    live = [worker for worker in report.workers if worker.ended_at is None]
    indices = {gpu.uuid: gpu.index for gpu in view.gpus}
    processes = {process.worker_id: process for process in view.processes}
    return {
        "at": at,
        "seconds": view.seconds,
        "remaining_s": view.remaining_s,
        "bottleneck": view.bottleneck,
        "stages": [_fields(stage) for stage in view.stages],
        "gpus": [_fields(gpu) for gpu in view.gpus],
        "workers": [_worker(worker, view.seconds, indices, processes) for worker in live[:MOST_WORKERS]],
        "workers_left_out": max(0, len(live) - MOST_WORKERS),
        "tasks_out": report.tasks_out,
        "failed_attempts": sum(stage.failed_attempts for stage in report.stages),
        "quarantined": sum(stage.quarantined for stage in report.stages),
    }


def _worker(
    worker: WorkerReport, seconds: float, gpu_indices: Mapping[str, int], processes: Mapping[str, Any]
) -> dict[str, Any]:
    busy, idle_reason = shares_between({}, worker.time)
    process = processes.get(worker.worker_id)
    return {
        "id": worker.worker_id,
        "stage_index": worker.stage_index,
        "pid": worker.pid,
        "state": "starting" if worker.ready_at is None else "ready",
        "age_s": max(0.0, seconds - worker.started_at),
        "batches": worker.batches,
        "busy": busy,
        "idle_reason": idle_reason,
        "gpus": [gpu_indices.get(uuid, uuid) for uuid in worker.gpus],
        "rss_bytes": None if process is None else process.rss_bytes,
        "gpu_memory_bytes": None if process is None or not worker.gpus else process.gpu_memory_bytes,
    }


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__match_args__}
