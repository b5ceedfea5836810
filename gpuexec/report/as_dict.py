"""The report as plain values: the content of ``report.json``. docs/report-json.md describes it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from gpuexec import events
from gpuexec._version import __version__
from gpuexec.contract.metrics import gpu_peaks
from gpuexec.core.worker_time import Work
from gpuexec.histogram import bounds, quantile
from gpuexec.planning.model import WorkerGrant
from gpuexec.report.energy import EnergyKind
from gpuexec.report.energy_shares import MOST_WORKERS, RunEnergy
from gpuexec.report.model import FailedAttempt, RunReport, SlowBatch, StageReport, WorkerReport
from gpuexec.report.sizes import suggested_gpu_memory_gb
from gpuexec.report.verdict import verdict
from gpuexec.report.wording import counted, seconds
from gpuexec.run_facts import RunFacts
from gpuexec.units import GIB

SCHEMA = "gpuexec-report/1"
_QUANTILES = (("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99))


def report_as_dict(report: RunReport) -> dict[str, Any]:
    """Return a report as plain values, which JSON can carry; what is not known is ``None``."""
    facts = report.facts or RunFacts()
    elapsed_s = report.wall_s if report.wall_s is not None else report.elapsed_s
    bin_s = max((timeline.bin_s for timeline in report.timelines), default=1.0)
    bins = math.ceil(elapsed_s / bin_s)
    energy = report.samples.energy() if report.samples is not None else RunEnergy({}, {}, {})
    content = {
        "schema": SCHEMA,
        "gpuexec": __version__,
        "run_id": facts.run_id,
        "pipeline": facts.pipeline,
        "executor": facts.executor,
        "started_at": report.started_at,
        "written_at": time.time(),
        "wall_s": report.wall_s,
        "elapsed_s": elapsed_s,
        "ended": report.wall_s is not None,
        "ok": report.ok,
        "interrupted": report.interrupted,
        "error": report.error,
        "versions": dict(facts.versions),
        "node": dict(facts.node),
        "options": plain(facts.options),
        "tasks_in": report.tasks_in,
        "tasks_out": report.tasks_out,
        "throughput_per_s": report.throughput,
        "plan": _plan(report),
        "timeline": {"bin_s": bin_s, "bins": bins},
        "stages": [
            {
                **_stage(report, stage, bin_s, bins, elapsed_s),
                "energy": energy.stages.get(stage.index) or _no_share(_why_stage_has_none(report, stage)),
            }
            for stage in report.stages
        ],
        "workers": [
            {
                **_worker(worker),
                "energy": energy.workers.get(worker.worker_id) or _no_share(_why_worker_has_none(worker)),
            }
            for worker in report.workers
        ],
        "gpus": _gpus(report, energy),
        "processes": report.samples.processes_as_dicts() if report.samples is not None else [],
        "plan_changes": [_plan_change(report, at, event) for at, event in report.plan_changes],
        "slowest": [_slow_batch(batch) for batch in report.slowest],
        "failures": [_failure(failure) for failure in report.failures],
        "quarantined": [
            {"stage_index": t.stage_index, "stage": t.stage_name, "task_id": t.task_id, "error": t.error}
            for t in report.quarantined
        ],
        "notes": [{"at_s": note.at_s, "level": note.level, "text": str(note)} for note in report.notes],
        "templates": [
            {"pid": t.pid, "stages": list(t.stage_names), "import_s": t.import_s, "kept": t.kept}
            for t in report.templates
        ],
        "host_before": plain(facts.host),
        "host_after": plain(report.host_after),
        "gpus_before": plain(report.gpus_before),
        "gpus_after": plain(report.gpus_after),
        "doubts": list(report.doubts),
    }
    return {**content, "verdict": verdict(content)}


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, strings, finite numbers, booleans and ``None`` only."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None  # JSON has no other
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):  # records are, too
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


def _plan(report: RunReport) -> dict[str, Any]:
    plan = report.plan
    if plan is None:
        return {"phases": [], "notes": []}
    phases = [
        {
            "stages": [
                {
                    "stage_index": stage.stage_index,
                    "workers": len(stage.workers),
                    "reason": stage.reason,
                    "fused": list(stage.fused),
                }
                for stage in phase.stages
            ]
        }
        for phase in plan.phases
    ]
    return {"phases": phases, "notes": list(plan.notes)}


def _stage(report: RunReport, stage: StageReport, bin_s: float, bins: int, until: float) -> dict[str, Any]:
    stages = report.facts.stages if report.facts is not None else ()
    facts = stages[stage.index] if stage.index < len(stages) else None
    active_s = stage.last_at - stage.first_at if stage.first_at is not None and stage.last_at is not None else 0.0
    totals = (
        "batches failed_attempts tasks_in tasks_out quarantined items process_s receive_s send_s transfer_s queued_s "
        "input_bytes output_bytes spilled_bytes node_setup_s"
    )
    return {
        "index": stage.index,
        "name": stage.name,
        "lead_index": stage.lead_index,
        "plan_reason": stage.plan_reason,
        "class_name": facts.class_name if facts else None,
        "batch_size": facts.batch_size if facts else None,
        "cpus": facts.cpus if facts else None,
        "gpus": facts.gpus if facts else None,
        "gpu_memory_gb": facts.gpu_memory_gb if facts else None,
        "num_workers": facts.num_workers if facts else None,
        "max_concurrency": facts.max_concurrency if facts else None,
        **{name: getattr(stage, name) for name in totals.split()},
        "first_s": stage.first_at,
        "last_s": stage.last_at,
        "tasks_per_s": stage.tasks_in / active_s if active_s > 0 else None,
        "time": dict(stage.time),
        "service_time": _service_time(stage),
        "gpu_memory": _gpu_memory(report, stage),
        "rss_peak_bytes": stage.rss_peak_bytes or None,
        "cpu_s": _cpu_s(report, stage),
        "node_setup_gpu_growth_bytes": dict(stage.node_setup_gpu_growth_bytes),
        "metrics": plain(stage.metrics),
        "timeline": report.timelines[stage.index].to_dict(bin_s, bins, until),
    }


def _service_time(stage: StageReport) -> dict[str, Any]:
    histogram = stage.service_times
    low, high = stage.shortest_s, stage.longest_s
    quantiles = {name: quantile(histogram, share) for name, share in _QUANTILES}
    if low is not None and high is not None:  # the bins are wider than what they hold
        quantiles = {name: None if q is None else min(max(q, low), high) for name, q in quantiles.items()}
    return {
        "count": sum(histogram.values()),
        "sum_s": stage.process_s,
        "min_s": low,
        "max_s": high,
        **quantiles,
        "bins": [[bounds(number)[1], histogram[number]] for number in sorted(histogram)],
    }


def _gpu_memory(report: RunReport, stage: StageReport) -> dict[str, Any]:
    peaks = gpu_peaks(stage.metrics)
    asked = None
    shares = [
        share for grant in _grants(report) if grant.stage_index == stage.lead_index for share in grant.allocation.gpus
    ]
    if shares:
        known = [share.memory_bytes for share in shares if share.memory_bytes is not None]
        asked = max(known, default=None)
    if not peaks:
        reason = "no reading arrived" if shares else "the stage asks for no GPU"
        return {"peak_bytes": None, "reason": reason, "source": None, "asked_bytes": asked, "suggested_gb": None}
    _, source, peak = max(peaks, key=lambda found: found[2])
    suggested = suggested_gpu_memory_gb(int(peak)) if 0 < peak < 2**10 * GIB else None
    return {"peak_bytes": int(peak), "reason": None, "source": source, "asked_bytes": asked, "suggested_gb": suggested}


def _cpu_s(report: RunReport, stage: StageReport) -> float | None:
    """Return the CPU seconds of the stage's workers that have ended; of fused stages, the lead has all."""
    known = [w.cpu_s for w in report.workers if w.stage_index == stage.index and w.cpu_s is not None]
    return sum(known) if known else None


def _worker(worker: WorkerReport) -> dict[str, Any]:
    names = (
        "stage_index pid spawn_s load_s setup_s teardown_s batches exit_code start_reason end_reason warm cpu_s "
        "max_rss_bytes"
    )
    return {
        "id": worker.worker_id,
        "stage": worker.stage_name,
        **{name: getattr(worker, name) for name in names.split()},
        "started_s": worker.started_at,
        "ready_s": worker.ready_at,
        "ended_s": worker.ended_at,
        "gpus": list(worker.gpus),
        "time": dict(worker.time),
    }


def _no_share(reason: str) -> dict[str, Any]:
    """Return the energy of a stage or worker that has no share of a GPU's."""
    return {"joules": None, "kind": str(EnergyKind.ATTRIBUTED), "reason": reason}


def _why_stage_has_none(report: RunReport, stage: StageReport) -> str:
    lead = stage.lead_index
    if lead != stage.index:
        return f"it is counted with stage {report.stages[lead].name!r}, whose workers run this one too"
    if lead in {grant.stage_index for grant in _grants(report) if grant.allocation.gpus}:
        return "no worker was busy on a GPU"
    return "the stage asks for no GPU"


def _why_worker_has_none(worker: WorkerReport) -> str:
    if not worker.gpus:
        return "the worker has no GPU"
    if not worker.time.get(Work.BUSY):
        return "the worker was not busy"
    return f"only the first {MOST_WORKERS} workers on GPUs have shares of their own"


def _grants(report: RunReport) -> list[WorkerGrant]:
    return [g for p in (report.plan.phases if report.plan else ()) for s in p.stages for g in s.workers]


def _gpus(report: RunReport, energy: RunEnergy) -> list[dict[str, Any]]:
    """Return the GPUs and MIG slices that the plan uses, and the GPUs that the slices are of."""
    shares = {share.uuid: share for grant in _grants(report) for share in grant.allocation.gpus}
    series = report.samples.gpus if report.samples is not None else {}
    sampled = {uuid: {**gpu.to_dict(), "energy": energy.gpus[uuid]} for uuid, gpu in series.items()}
    gpus = [
        {
            "index": share.index,
            "uuid": uuid,
            "name": share.name,
            "memory_bytes": None if share.memory_bytes is None else round(share.memory_bytes / share.fraction),
            "time": dict(report.gpu_time.get(uuid, {})),
            **_sampled(report, uuid, sampled.get(uuid)),
        }
        for uuid, share in sorted(shares.items(), key=lambda item: item[1].index)
    ]
    whole = [{"name": None, "time": {}, **found} for uuid, found in sampled.items() if uuid not in shares]
    return [*gpus, *whole]


def _sampled(report: RunReport, uuid: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return series and energy of a device."""
    if found is not None:
        return {"series": found["series"], "energy": found["energy"]}
    stopped = report.samples.stopped if report.samples is not None else {}
    reason = stopped.get(uuid) or stopped.get("nvml") or stopped.get("sampler") or "no sample was taken"
    if uuid.startswith("MIG-"):
        reason = "a MIG slice: its GPU is sampled as a whole"
    unknown = {"joules": None, "idle_watts": None, "idle_joules": None, "kind": None}
    return {"series": [], "energy": {**unknown, "seconds": 0.0, "reason": reason, "idle_reason": reason}}


def _plan_change(report: RunReport, at: float, event: events.PlanDecided) -> dict[str, Any]:
    names = [stage.name for stage in report.stages]
    return {
        "at_s": at,
        "action": "change" if event.started or event.stopped else "keep",
        "reason": str(event.reason),
        "limit": str(event.limit),
        "bottleneck": event.bottleneck,
        "proven": event.proven,
        "gain_s": event.gain_s,
        "throughput_per_s": event.throughput,
        "started": list(event.started),
        "stopped": list(event.stopped),
        "detail": "; ".join(_arithmetic(names, target) for target in event.stages),
        "stages": [plain(target) for target in event.stages],
    }


def _arithmetic(names: list[str], target: events.StageTarget) -> str:
    name = names[target.stage_index]
    workers = counted(target.target, "worker")
    if target.workers != target.target:
        workers += f" (now {target.workers:,})"
    if target.task_s is None or target.tasks is None:
        return f"{name}: not measured, {workers}"
    needed = seconds(target.task_s * target.tasks / max(1, target.target))
    return f"{name}: {seconds(target.task_s)} × {counted(target.tasks, 'task')} / {workers} = {needed}"


def _slow_batch(batch: SlowBatch) -> dict[str, Any]:
    return {
        "stage_index": batch.stage_index,
        "worker": batch.worker_id,
        "task_ids": list(batch.task_ids),
        "began_s": batch.ended_at - batch.process_s,
        "process_s": batch.process_s,
        "tasks": batch.tasks,
    }


def _failure(failure: FailedAttempt) -> dict[str, Any]:
    fields = dataclasses.asdict(failure)
    stage, worker, at_s = (fields.pop(name) for name in ("stage_name", "worker_id", "failed_at"))
    return plain({"at_s": at_s, "stage": stage, "worker": worker, **fields})  # type: ignore[no-any-return]
