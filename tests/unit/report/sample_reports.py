"""Reports of plausible runs, for tests and for pictures in the documentation."""

from __future__ import annotations

from typing import Any

from gpuexec.report.verdict import verdict
from tests.unit.report.report_of import report_of
from tests.unit.report.simulated_run import SimRun, SimStage

HOSTILE = 'caption</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\n🦜 ' + "long " * 60


def a_task_that_failed() -> dict[str, Any]:
    """The run ended when `caption` ran out of GPU memory; one task is in quarantine, another was tried again."""
    stages = (SimStage("read", 0.004), SimStage("caption", 0.6, 2, gpus=1.0, setup_s=4.0), SimStage("write", 0.002))
    error = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n  File caption.py, line 41, in process"
    )
    failures = [
        _failure(9.25, "retry", "attempts are left", "ConnectionError: the model server closed the connection"),
        _failure(21.0, "quarantine", "attempts are spent", "ValueError: the frame has no pixels", capsule="0_17"),
        _failure(33.5, "raise", "the error is not one to retry", error, capsule="0_23 it's"),
    ]
    sample = report_of(
        SimRun(stages, 120),
        ok=False,
        error=f"{error}\n\nThe stage 'caption' failed on task 0_23.",
        failures=failures,
        quarantined=[{"stage_index": 1, "stage": "caption", "task_id": "0_17", "error": failures[1]["error"]}],
        notes=[
            {"at_s": 2.0, "level": "WARNING", "text": "GPU 1: another process (pid 812) held 3.1 GiB during the run"}
        ],
        tasks_out=61,
        plan_changes=[_plan_change(6.0, 2, 3), _plan_change(14.0, 3, 2)],
    )
    sample["stages"][1] |= {"failed_attempts": 3, "quarantined": 1}
    sample["verdict"] = verdict(sample)
    return sample


def _failure(at_s: float, action: str, reason: str, error: str, capsule: str | None = None) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "stage_index": 1,
        "stage": "caption",
        "worker": "caption-1",
        "task_ids": ["0_17", "0_18"],
        "elapsed_s": 0.84,
        "error": error,
        "action": action,
        "reason": reason,
        "stacks": "Thread MainThread:\n  File caption.py, line 41 in process" if action == "raise" else None,
        "capsule": f"/home/me/.local/state/gpuexec/capsules/{capsule}" if capsule else None,
    }


def _plan_change(at_s: float, workers: int, target: int) -> dict[str, Any]:
    more = target > workers
    return {
        "at_s": at_s,
        "action": "change",
        "reason": "the stage is the slowest, and resources for another worker are free",
        "bottleneck": 1,
        "limit": "no more workers fit on the GPUs",
        "gain_s": 12.5,
        "stopped": [] if more else ["caption-2"],
        "started": ["caption-2"] if more else [],
        "detail": "0.6 s a task at 2 workers is 3.3 tasks/s; 3 workers would be 5.0 tasks/s",
        "stages": [{"stage_index": 1, "workers": workers, "target": target}],
    }


def one_task() -> dict[str, Any]:
    """One task went through three stages, in less than a second."""
    stages = (SimStage("read", 0.05), SimStage("caption", 0.3, gpus=1.0, setup_s=0.1), SimStage("write", 0.02))
    return report_of(SimRun(stages, 1))


def fifty_stages() -> dict[str, Any]:
    """Fifty stages, some of which are fused, and the 31st is the slowest."""
    stages = tuple(SimStage(f"step_{n:02}", 0.02 if n == 31 else 0.001 + 0.0003 * (n * 7 % 13)) for n in range(50))
    sample = report_of(SimRun(stages, 2000))
    for index in (12, 13, 14):
        sample["stages"][index] |= {
            "lead_index": 11,
            "time": {},
            "plan_reason": "fused: it runs in the workers of 'step_11'",
        }
    return sample


def eight_gpus_six_hours() -> dict[str, Any]:
    """Eight GPUs, six hours, two stages on GPUs; heat slowed the GPUs down for a while. Long lists are full."""
    stages = (
        SimStage("list", 0.002),
        SimStage("decode", 0.3, 16, bytes_per_task=3e7),
        SimStage("embed", 0.12, 8, gpus=0.25, setup_s=30.0, batch_size=8),
        SimStage("caption", 1.05, 6, gpus=1.0, setup_s=95.0, batch_size=4),
        SimStage("write", 0.01),
    )
    sample = report_of(SimRun(stages, 120_000, throttled=(0.55, 0.62, 0.7)))
    workers = sample["workers"]
    sample["workers"] = [{**workers[n % len(workers)], "id": f"caption-{n}"} for n in range(10_000)]
    stacks = "\n".join(f"  File stage.py, line {line} in process" for line in range(400))
    failure = _failure(100.0, "retry", "attempts are left", "ConnectionError: closed") | {"stacks": stacks}
    sample["failures"] = [failure | {"at_s": 2.0 * n, "task_ids": [f"0_{n}"]} for n in range(10_000)]
    sample["notes"] = [{"at_s": 2.0 * n, "level": "INFO", "text": f"note {n}"} for n in range(10_000)]
    sample["plan_changes"] = [_plan_change(60.0 * n, 5, 6) for n in range(300)]
    sample["verdict"] = verdict(sample)
    return sample


def hostile_names() -> dict[str, Any]:
    """Every text that a user can choose tries to be markup, and is long."""
    stages = (
        SimStage("read", 0.004),
        SimStage(HOSTILE, 0.1, 2, gpus=1.0),
        SimStage("\ud800\u2028`${alert(1)}`", 0.002),
    )
    failure = _failure(3.0, "raise", HOSTILE, HOSTILE, capsule=HOSTILE) | {"stage": HOSTILE, "worker": HOSTILE}
    sample = report_of(
        SimRun(stages, 300),
        pipeline=HOSTILE,
        options={HOSTILE: HOSTILE},
        failures=[failure | {"task_ids": [HOSTILE], "stacks": HOSTILE}],
        quarantined=[{"stage_index": 1, "stage": HOSTILE, "task_id": HOSTILE, "error": HOSTILE}],
        notes=[{"at_s": 1.0, "level": HOSTILE, "text": HOSTILE}],
        ok=False,
        error=HOSTILE,
    )
    sample["stages"][1]["metrics"] = {HOSTILE: 1.0}
    sample["node"]["hostname"] = HOSTILE
    sample["versions"][HOSTILE] = HOSTILE
    sample["slowest"][0]["task_ids"] = [HOSTILE]
    return sample


def eight_gpus() -> dict[str, Any]:
    """Eight GPUs busy with captions for some minutes."""
    stages = (
        SimStage("read", 0.002),
        SimStage("decode", 0.05, 4, bytes_per_task=2e6),
        SimStage("caption", 1.2, 8, gpus=1.0, setup_s=12.0),
        SimStage("write", 0.003),
    )
    return report_of(SimRun(stages, 3000))


def starved_gpu() -> dict[str, Any]:
    """The GPUs wait for frames, since decoding is slow."""
    stages = (
        SimStage("read", 0.001),
        SimStage("decode", 0.2, 4),
        SimStage("caption", 0.03, 2, gpus=1.0),
        SimStage("write", 0.003),
    )
    return report_of(SimRun(stages, 1000))


def one_slow_task() -> dict[str, Any]:
    """A task of `parse` takes a thousand times as long as the others."""
    stages = (SimStage("read", 0.001), SimStage("parse", 0.02, 2), SimStage("write", 0.0005))
    return report_of(SimRun(stages, 400, slow_task=(1, 20.0)))


SAMPLES = {
    made.__name__: made
    for made in (
        one_task,
        a_task_that_failed,
        fifty_stages,
        eight_gpus_six_hours,
        hostile_names,
        eight_gpus,
        starved_gpu,
        one_slow_task,
    )
}
