"""Makes a report of a simulated run, and fills in what a simulation has no word on."""

from __future__ import annotations

import math
import random
from typing import Any

from gpuexec.histogram import bin_of, bounds
from gpuexec.report.verdict import verdict
from tests.unit.report.simulated_run import Line, Outcome, SimRun, SimStage, Simulation

GIB = 2**30
H100 = ("NVIDIA H100 80GB HBM3", 80 * GIB)
IDLE_WATTS = 70.0


def report_of(run: SimRun, seed: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the report of a simulated run, with ``changes`` to its fields, and its verdict."""
    outcome = Simulation(run).outcome()
    chance = random.Random(seed)
    workers = _workers(run, outcome)
    stages = [_stage(run, index, line, outcome) for index, line in enumerate(outcome.lines)]
    report = {
        "schema": "gpuexec-report/1",
        "gpuexec": "0.1.0",
        "run_id": "k3f9a2",
        "pipeline": "curate",
        "executor": "local",
        "started_at": 1_796_000_000.25,
        "wall_s": outcome.wall_s,
        "ended": True,
        "ok": True,
        "interrupted": False,
        "error": None,
        "versions": {"python": "3.11.7", "gpuexec": "0.1.0", "torch": "2.13.0", "nvidia_driver": "580.95.05"},
        "node": {
            "hostname": "node-17",
            "cpus": 64,
            "memory_bytes": 512 * GIB,
            "platform": "Linux x86_64",
            "kernel": "6.1.0-40",
            "usable_cpus": 64.0,
            "devices": _devices(max(run.gpus, math.ceil(sum(s.gpus * s.workers for s in run.stages) - 1e-9))),
        },
        "options": {"max_attempts": 3, "batch_timeout_s": 600.0},
        "tasks_in": round(run.tasks),
        "tasks_out": stages[-1]["tasks_out"],
        "throughput_per_s": stages[-1]["tasks_out"] / outcome.wall_s,
        "plan": {
            "phases": [
                {
                    "stages": [
                        {"stage_index": i, "workers": s.workers, "reason": stages[i]["plan_reason"], "fused": []}
                        for i, s in enumerate(run.stages)
                    ]
                }
            ],
            "notes": ["64 CPUs are usable; one is kept for the driver"],
        },
        "stages": stages,
        "timeline": {"bin_s": outcome.bin_s, "bins": len(outcome.lines[0].tasks)},
        "workers": workers,
        "gpus": _gpus(run, outcome, workers, chance),
        "processes": [],
        "plan_changes": [],
        "slowest": _slowest(run, outcome),
        "failures": [],
        "quarantined": [],
        "notes": [],
        "templates": [{"pid": 4000, "stages": [s.name for s in run.stages], "import_s": 2.4, "kept": False}],
        "host_before": {"load_1m": 0.4, "memory_available_bytes": 480 * GIB},
        "host_after": {"load_1m": 22.6, "memory_available_bytes": 478 * GIB},
        "gpus_before": None,
        "gpus_after": None,
    }
    if report["gpus"]:
        report["gpus_before"], report["gpus_after"] = (_provenance(run, report["gpus"], late) for late in (False, True))
    report |= changes
    report["verdict"] = verdict(report)
    return report


def _stage(run: SimRun, index: int, line: Line, outcome: Outcome) -> dict[str, Any]:
    stage = run.stages[index]
    tasks_in = round(sum(line.tasks))
    batches = max(1, tasks_in // stage.batch_size)
    busy = sum(line.states.get("busy", []))
    tasks_out = round(sum(line.tasks) * stage.fan_out)
    asked = stage.gpus * H100[1] / 2 if stage.gpus else 0
    peak = int(asked * 0.58)
    active = max(line.ended_s - (line.began_s or 0.0), outcome.bin_s)
    return {
        "index": index,
        "name": stage.name,
        "lead_index": index,
        "plan_reason": "as many as fit" if stage.gpus else "one to begin with",
        "class_name": f"pipelines.curate.{stage.name.title()[:20]}Stage",
        "batch_size": stage.batch_size,
        "cpus": 1.0,
        "gpus": stage.gpus,
        "gpu_memory_gb": asked / GIB if asked else None,
        "num_workers": None,
        "batches": batches,
        "failed_attempts": 0,
        "tasks_in": tasks_in,
        "tasks_out": tasks_out,
        "quarantined": 0,
        "items": tasks_in * 10,
        "process_s": busy,
        "receive_s": 0.01 * busy,
        "send_s": 0.01 * busy,
        "transfer_s": sum(line.states.get("transfer", [])),
        "queued_s": sum(line.queued) * outcome.bin_s,
        "input_bytes": int(tasks_in * (run.stages[index - 1].bytes_per_task if index else 2e3)),
        "output_bytes": int(tasks_out * stage.bytes_per_task),
        "spilled_bytes": 0,
        "tasks_per_s": tasks_in / active,
        "time": {state: sum(values) for state, values in line.states.items()},
        "service_time": _service_time(
            stage, batches, run.slow_task if run.slow_task and run.slow_task[0] == index else None
        ),
        "gpu_memory": {
            "peak_bytes": peak or None,
            "reason": None if peak else "the stage asked for no GPU",
            "asked_bytes": int(asked) or None,
            "suggested_gb": float(round(peak / GIB * 1.08)) if peak else None,
        },
        "rss_peak_bytes": int(1.4 * GIB + index * 2e8),
        "cpu_s": busy * 0.9,
        "energy": {
            "joules": busy * stage.gpus * 480.0 if stage.gpus else None,
            "kind": "attributed",
            "reason": None if stage.gpus else "the stage used no GPU",
        },
        "node_setup_s": 1.2 if stage.gpus else None,
        "metrics": {"tokens": tasks_in * 311.0, "pages_skipped": 12.0} if index == 1 else {},
        "timeline": {**line.states, "tasks": line.tasks, "queued": line.queued, "workers": line.workers},
    }


def _service_time(stage: SimStage, batches: int, slow: tuple[int, float] | None) -> dict[str, Any]:
    """A distribution around the mean with a long right side, in the bins of `gpuexec.histogram`."""
    usual = stage.service_s * stage.batch_size
    weights = [1, 3, 9, 22, 30, 24, 14, 8, 4, 2, 1, 0.5, 0.25]
    total = sum(weights)
    first = bin_of(usual) - 4
    bins = [[bounds(first + k)[1], round(batches * w / total)] for k, w in enumerate(weights)]
    if slow is not None:
        bins.append([bounds(bin_of(slow[1]))[1], 1])
    bins = [[upper, count] for upper, count in bins if count] or [[bounds(bin_of(usual))[1], batches]]
    count = sum(count for _, count in bins)

    def quantile(part: float) -> float:
        seen = 0
        for upper, number in bins:
            seen += number
            if seen >= part * count:
                return upper
        return bins[-1][0]

    return {
        "count": count,
        "sum_s": usual * count,
        "min_s": bins[0][0] * 0.85,
        "max_s": slow[1] if slow else bins[-1][0],
        "p50_s": quantile(0.5),
        "p90_s": quantile(0.9),
        "p99_s": quantile(0.99),
        "bins": bins,
    }


def _devices(count: int) -> list[dict[str, Any]]:
    return [
        {
            "index": number,
            "uuid": _uuid(number),
            "memory_bytes": H100[1],
            "free_share": 1.0,
            "memory_left_bytes": H100[1],
            "is_mig": False,
            "single_worker": False,
        }
        for number in range(count)
    ]


def _uuid(index: int) -> str:
    return f"GPU-{index:08x}-5f0e-11ee-8000-0242ac120002"


def _workers(run: SimRun, outcome: Outcome) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = []
    free = 0.0
    for index, (stage, line) in enumerate(zip(run.stages, outcome.lines, strict=True)):
        for number in range(stage.workers):
            gpus = sorted({int(free + 1e-9), int(free + stage.gpus - 1e-9)}) if stage.gpus else []
            free += stage.gpus
            ready = stage.setup_s * (1 - 0.2 * number / stage.workers)
            workers.append(
                {
                    "id": f"{stage.name}-{number}",
                    "stage_index": index,
                    "stage": stage.name,
                    "pid": 4100 + len(workers),
                    "gpus": [_uuid(gpu) for gpu in gpus],
                    "started_s": 0.0,
                    "ready_s": ready,
                    "ended_s": line.ended_s,
                    "spawn_s": 0.08,
                    "load_s": 0.02,
                    "setup_s": ready,
                    "teardown_s": 0.01,
                    "batches": round(sum(line.tasks) / stage.batch_size / stage.workers),
                    "energy": {
                        "joules": sum(line.states["busy"]) / stage.workers * stage.gpus * 480.0 if stage.gpus else None,
                        "kind": "attributed",
                        "reason": None if stage.gpus else "the worker has no GPU",
                    },
                    "exit_code": 0,
                    "end_reason": "its stage has no work left",
                    "start_reason": "planned",
                    "warm": number > 0,
                    "cpu_s": sum(line.states.get("busy", [])) / stage.workers,
                    "max_rss_bytes": int(1.2 * GIB + 3e7 * number),
                    "time": {state: sum(values) / stage.workers for state, values in line.states.items()},
                }
            )
    return workers


def _gpus(run: SimRun, outcome: Outcome, workers: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    used = sorted({uuid for worker in workers for uuid in worker["gpus"]})
    gpus = []
    for number, uuid in enumerate(used):
        on_it = {worker["stage_index"] for worker in workers if uuid in worker["gpus"]}
        gpus.append(_gpu(run, outcome, number, uuid, on_it, chance))
    return gpus


def _gpu(
    run: SimRun, outcome: Outcome, number: int, uuid: str, on_it: set[int], chance: random.Random
) -> dict[str, Any]:
    bins, bin_s = len(outcome.throttled), outcome.bin_s
    states: dict[str, list[float]] = {}
    for index in on_it:
        for state, values in outcome.lines[index].states.items():
            each = [value / run.stages[index].workers / len(on_it) for value in values]
            states[state] = [a + b for a, b in zip(states.get(state, [0.0] * bins), each, strict=True)]
    busy = [min(1.0, value / bin_s) for value in states.get("busy", [0.0] * bins)]
    alive = [any(outcome.lines[i].workers[b] for i in on_it) for b in range(bins)]
    sm = [max(0.0, min(100.0, 96 * b + chance.gauss(0, 2))) for b in busy]
    power = [IDLE_WATTS + 6.1 * s - 150 * t for s, t in zip(sm, outcome.throttled, strict=True)]
    asked = sum(run.stages[i].gpus * 0.29 for i in on_it)
    memory = [
        H100[1] * (0.01 + (min(0.92, asked) * (0.85 + 0.15 * b) if a else 0)) for a, b in zip(alive, busy, strict=True)
    ]

    def series(name: str, unit: str, mean: list[float], spread: float, gaps: bool = False) -> dict[str, Any]:
        known: list[float | None] = list(mean)
        if gaps:
            known[bins // 2 : bins // 2 + max(1, bins // 40)] = [None] * len(
                known[bins // 2 : bins // 2 + max(1, bins // 40)]
            )
        most = [None if value is None else value * (1 + spread) for value in known]
        return {
            "name": name,
            "unit": unit,
            "source": "NVML",
            "reason": None,
            "bin_s": bin_s,
            "mean": known,
            "max": most,
        }

    absent = {"name": "pcie_tx", "unit": "bytes/s", "source": "NVML", "bin_s": bin_s, "mean": [], "max": []}
    joules = sum(power) * bin_s
    long_enough = outcome.wall_s >= 10
    return {
        "index": number,
        "uuid": uuid,
        "name": H100[0],
        "memory_bytes": H100[1],
        "time": {state: sum(values) for state, values in states.items()},
        "series": [
            series("memory_used", "bytes", memory, 0.0),
            series("sm_util", "%", sm, 0.02, gaps=True),
            series("memory_util", "%", [0.55 * value for value in sm], 0.1),
            series("power", "W", power, 0.05),
            series("temperature", "°C", [38 + 0.3 * s for s in sm], 0.0),
            series("sm_clock", "MHz", [1980 - 780 * t for t in outcome.throttled], 0.0),
            series("throttle", "fraction", outcome.throttled, 0.0),
            series("pcie_rx", "bytes/s", [2e7 * s for s in sm], 0.5),
            absent | {"reason": "NVML: not supported on this GPU"},
        ],
        "energy": {
            "joules": joules if long_enough else None,
            "kind": "measured" if long_enough else "short",
            "reason": None if long_enough else "the run was shorter than 10 s",
            "idle_watts": IDLE_WATTS,
            "idle_joules": min(joules, IDLE_WATTS * outcome.wall_s) if long_enough else None,
        },
    }


def _provenance(run: SimRun, gpus: list[dict[str, Any]], late: bool) -> dict[str, Any]:
    hot = run.throttled is not None and late
    return {
        "driver_version": "580.95.05",
        "cuda_version": "13.0",
        "gpus": [
            {
                "index": gpu["index"],
                "uuid": gpu["uuid"],
                "sm_clock_mhz": 1200 if hot else 1980,
                "memory_clock_mhz": 2619,
                "power_limit_mw": 700_000,
                "clock_reasons": ["SW thermal slowdown"] if hot else ["idle"],
                "throttled_ns": {"power cap": 0, "SW thermal slowdown": 4_000_000_000 if hot else 0},
                "processes": [],
                "unknown": {},
            }
            for gpu in gpus
        ],
        "foreign_pids": False,
        "missing": {},
        "hang": None,
    }


def _slowest(run: SimRun, outcome: Outcome) -> list[dict[str, Any]]:
    listed = [
        _batch(index, stage, number, (outcome.lines[index].began_s or 0.0) + number * 0.1 * outcome.wall_s)
        for index, stage in enumerate(run.stages)
        for number in range(6)
    ]
    if run.slow_task is not None:
        index, seconds = run.slow_task
        name, began = run.stages[index].name, outcome.lines[index].ended_s - seconds
        batch = {"stage_index": index, "worker": f"{name}-0", "task_ids": ["0_4711"], "tasks": 1}
        listed.append(batch | {"began_s": began, "process_s": seconds})
    return sorted(listed, key=lambda batch: -batch["process_s"])[:20]


def _batch(index: int, stage: SimStage, number: int, began_s: float) -> dict[str, Any]:
    return {
        "stage_index": index,
        "worker": f"{stage.name}-{number % stage.workers}",
        "task_ids": [f"0_{17 * number + 3}_{index}"],
        "began_s": began_s,
        "process_s": stage.service_s * stage.batch_size * (3.2 - 0.2 * number),
        "tasks": stage.batch_size,
    }
