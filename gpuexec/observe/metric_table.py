"""The metrics that a run serves to Prometheus: names, labels and meanings. docs/metrics.md is made from this table."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

STAGE = ("stage", "index")
GPU = ("gpu", "uuid")
BUCKETS = range(-12, 13)  # of service times: powers of two, in seconds


class Metric(NamedTuple):
    """A metric, by the name that a scrape shows. Its values are added up (counter), or those of the moment (gauge)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    about: str


METRICS = (
    Metric("gpuexec_run_info", "gauge", ("run_id", "pipeline", "executor", "version"), "1; the labels name the run"),
    Metric("gpuexec_run_start_time_seconds", "gauge", (), "when the run began, as a POSIX time"),
    Metric("gpuexec_plan_changes_total", "counter", (), "decisions of the planner to start or stop workers"),
    Metric("gpuexec_tasks_total", "counter", STAGE, "tasks that the stage has finished"),
    Metric("gpuexec_output_tasks_total", "counter", STAGE, "tasks that the stage has returned"),
    Metric("gpuexec_items_total", "counter", STAGE, "items of the finished tasks, the sum of their num_items"),
    Metric("gpuexec_batches_total", "counter", STAGE, "batches that the stage has finished"),
    Metric("gpuexec_batch_seconds", "histogram", STAGE, "time in the stage's code, of a batch"),
    Metric(
        "gpuexec_failed_attempts_total",
        "counter",
        (*STAGE, "action"),
        "failed attempts at batches and set-ups, by what was done next: retry, split, quarantine or raise",
    ),
    Metric("gpuexec_quarantined_tasks_total", "counter", STAGE, "tasks that the run went on without"),
    Metric("gpuexec_input_bytes_total", "counter", STAGE, "pickled size of the finished tasks"),
    Metric("gpuexec_output_bytes_total", "counter", STAGE, "pickled size of the returned tasks"),
    Metric("gpuexec_spilled_bytes_total", "counter", STAGE, "pickled size of its tasks that were written to disk"),
    Metric("gpuexec_queued_tasks", "gauge", STAGE, "tasks that wait in front of the stage"),
    Metric("gpuexec_in_flight_tasks", "gauge", STAGE, "tasks at the stage's workers"),
    Metric("gpuexec_workers", "gauge", (*STAGE, "state"), "workers, by their state: starting or ready"),
    Metric("gpuexec_worker_starts_total", "counter", STAGE, "workers that were started"),
    Metric(
        "gpuexec_worker_seconds_total",
        "counter",
        (*STAGE, "activity"),
        "time of the stage's workers by what it went to: busy, transfer, lost, or the reason why they were idle",
    ),
    Metric(
        "gpuexec_resident_bytes",
        "gauge",
        STAGE,
        "resident memory of the stage's workers, shared pages counted in each of them",
    ),
    Metric(
        "gpuexec_stage_metric",
        "gauge",
        (*STAGE, "metric"),
        "what the stage has logged with _log_metric under this name, added up; of the first 1,000 names",
    ),
    Metric(
        "gpuexec_gpu_seconds_total",
        "counter",
        (*GPU, "activity"),
        "time of the GPU by what it went to: busy, or the reason why it was idle",
    ),
    Metric("gpuexec_gpu_memory_used_bytes", "gauge", GPU, "memory in use, by any process"),
    Metric("gpuexec_gpu_memory_total_bytes", "gauge", GPU, "memory of the GPU"),
    Metric("gpuexec_gpu_utilization_ratio", "gauge", GPU, "part of the last moments in which a kernel ran"),
    Metric(
        "gpuexec_gpu_memory_utilization_ratio",
        "gauge",
        GPU,
        "part of the last moments in which its memory was read or written",
    ),
    Metric("gpuexec_gpu_power_watts", "gauge", GPU, "power that the GPU takes"),
    Metric("gpuexec_gpu_energy_joules_total", "counter", GPU, "the GPU's energy counter, since its driver was loaded"),
    Metric("gpuexec_gpu_temperature_celsius", "gauge", GPU, "temperature of the GPU"),
    Metric("gpuexec_gpu_sm_clock_hertz", "gauge", GPU, "clock of its processors"),
)
