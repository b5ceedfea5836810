"""Figures of a report, how a trial ended, and what makes its figures doubtful."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuexec import ConfigurationError, GpusLost, ResourcesError, WorkerDied
from gpuexec.bench.figures import ending_of, marks_of, result_of, with_clock_mark
from gpuexec.bench.model import Trial, TrialStatus
from gpuexec.errors import RemoteTraceback, TooManyQuarantined
from tests.unit.bench.sweeps import result
from tests.unit.bench.test_arrivals import finished, started, watched

TRIAL = Trial(0, "p00", 1, 0, None)
REPORT: dict[str, Any] = {
    "wall_s": 12.5,
    "elapsed_s": 12.5,
    "stages": [
        {
            "index": 0,
            "name": "read",
            "lead_index": 0,
            "items": 10,
            "service_time": {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99},
            "gpu_memory": {"peak_bytes": None},
            "energy": {"joules": None},
            "time": {"busy": 3.0, "no_input": 1.5, "setting_up": 0.5, "transfer": 0.25},
            "gpu_memory_gb": 0.0,
        },
        {
            "index": 1,
            "name": "embed",
            "lead_index": 1,
            "items": 10,
            "service_time": {"p50_s": None, "p90_s": None, "p99_s": None},
            "gpu_memory": {"peak_bytes": 2**30},
            "energy": {"joules": 50.0},
            "time": {},
            "gpu_memory_gb": 10.0,
        },
    ],
    "workers": [
        {"stage_index": 0, "started_s": 0.0, "ended_s": 10.0},
        {"stage_index": 0, "started_s": 5.0, "ended_s": 10.0},
        {"stage_index": 1, "started_s": 2.5, "ended_s": None},
    ],
}


def test_figures_of_stages():
    arrivals = watched(started("read", "embed"), finished(0, 1.0, 2.0, 10), finished(1, 2.0, 4.0, 10))
    made = result_of(TRIAL, TrialStatus.OK, None, started_at=5.0, report=REPORT, arrivals=arrivals, run_folder="runs/a")
    assert (made.seconds, made.items, made.run_folder) == (12.5, 10, "runs/a")
    assert made.throughput == pytest.approx(10 / 2)
    read, embed = made.stages
    assert (read.name, read.service_p50_s, read.service_p99_s, read.items_per_s) == ("read", 0.5, 0.99, 10.0)
    assert read.idle == {"no_input": 1.5, "setting_up": 0.5}
    assert (read.workers, read.gpu_memory_gb, read.joules_per_item, read.peak_gpu_bytes) == (1.5, None, None, None)
    assert (embed.workers, embed.gpu_memory_gb, embed.joules_per_item, embed.peak_gpu_bytes) == (1.0, 10.0, 5.0, 2**30)


def test_a_trial_that_left_nothing_has_no_figures():
    made = result_of(TRIAL, TrialStatus.CRASHED, "\n killed  by SIGKILL" + "x" * 500 + "\nmore", started_at=5.0)
    assert made.reason is not None
    assert made.reason.startswith("killed by SIGKILLxxx")
    assert len(made.reason) == 300
    unknown = (made.seconds, made.items, made.throughput, made.joules, made.latency_p99_s, made.run_folder)
    assert unknown == (None,) * 6
    assert made.stages == made.marks == ()


# ---- how it ended ----------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


def raised_in(stage: str, error: BaseException) -> BaseException:
    error.__cause__ = RemoteTraceback("Traceback …", stage, f"{stage}-0", "process", ("0_1",))
    return error


def too_many(first: BaseException) -> BaseException:
    error = TooManyQuarantined("nearly all tasks of stage 'embed' have failed")
    error.__cause__ = first
    return error


DIED = WorkerDied(
    stage="embed", worker_id="embed-0", exit_code=-9, cause="killed by SIGKILL (signal 9)", phase="process"
)


@pytest.mark.parametrize(
    ("error", "report", "status", "reason"),
    [
        (None, {}, TrialStatus.OK, None),
        (None, {"quarantined": [{"error": "ValueError: bad"}]}, TrialStatus.OK, None),
        (
            None,
            {"quarantined": [{"error": "torch.OutOfMemoryError: CUDA out of memory"}]},
            TrialStatus.OUT_OF_MEMORY,
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (
            raised_in("embed", OutOfMemoryError("tried to allocate 2 GiB")),
            {},
            TrialStatus.OUT_OF_MEMORY,
            "stage 'embed': OutOfMemoryError: tried to allocate 2 GiB",
        ),
        (too_many(RuntimeError("CUDA out of memory")), {}, TrialStatus.OUT_OF_MEMORY, "nearly all tasks"),
        (DIED, {}, TrialStatus.CRASHED, "stage 'embed': killed by SIGKILL (signal 9)"),
        (GpusLost("GPU 0 failed"), {}, TrialStatus.CRASHED, "GPU 0 failed"),
        (ResourcesError("needs 9 GPUs"), None, TrialStatus.REFUSED, "needs 9 GPUs"),
        (ConfigurationError("batch_size"), None, TrialStatus.REFUSED, "batch_size"),
        (LookupError("no file"), None, TrialStatus.FAILED, "LookupError: no file"),
        (raised_in("read", ValueError("bad")), {}, TrialStatus.FAILED, "stage 'read': ValueError: bad"),
        (
            DIED,
            {"failures": [{"error": "no end after 5 s (batch_timeout_s)", "stacks": "Thread …"}]},
            TrialStatus.TIMED_OUT,
            "no end after 5 s (batch_timeout_s)",
        ),
    ],
)
def test_how_a_run_ended(error, report, status, reason):
    found, why = ending_of(error, report)
    assert found is status
    assert why == reason or (reason is not None and why is not None and why.startswith(reason))


# ---- marks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "kinds"),
    [
        ({}, []),
        ({"doubts": ["GPU 0: another process (pid 7) held 2.0 GiB when the run ended"]}, ["another tenant"]),
        ({"doubts": ["GPU 0: a process that was there before the run (pid 7, …) held 2 GiB"]}, ["another tenant"]),
        ({"doubts": ["GPU 0 was throttled for 2 s of the run: HW slowdown"]}, ["throttled"]),
        ({"doubts": ["GPU 0: its power limit was changed from 300 W to 200 W during the run"]}, ["clock changed"]),
        ({"doubts": ["GPU 0 could not be read after the run: lost"]}, []),
        ({"gpus": [{"index": 0, "series": [{"name": "throttle", "mean": [0.0, 0.5]}]}]}, ["throttled"]),
        ({"gpus": [{"index": 0, "series": [{"name": "throttle", "mean": [0.0, 0.001]}]}]}, []),
        (
            {
                "gpus_before": {"gpus": [{"uuid": "a", "index": 0, "clock_reasons": ["idle"]}]},
                "gpus_after": {"gpus": [{"uuid": "a", "index": 0, "clock_reasons": ["application clocks"]}]},
            },
            ["clock changed"],
        ),
        (
            {
                "gpus_before": {"gpus": [{"uuid": "a", "index": 0, "clock_reasons": ["idle"]}]},
                "gpus_after": {"gpus": [{"uuid": "a", "index": 0, "clock_reasons": ["power cap"]}]},
            },
            [],
        ),
    ],
)
def test_marks(report, kinds):
    assert [mark.partition(":")[0] for mark in marks_of(report)] == kinds


def test_another_clock_than_in_the_points_other_trials():
    earlier = [result(replace(TRIAL, number=n), 1.0, sm_clock_mhz=clock) for n, clock in enumerate((1980.0, 1970.0))]
    other = result(replace(TRIAL, point_id="p01"), 1.0, sm_clock_mhz=1200.0)
    disturbed = result(TRIAL, 1.0, sm_clock_mhz=900.0, marks=("throttled: for 9 s",))
    earlier += [other, disturbed]
    slow = with_clock_mark(result(TRIAL, 1.0, sm_clock_mhz=1410.0), earlier)
    assert slow.marks == ("clock changed: 1,410 MHz under load, and 1,975 MHz in the point's other trials",)
    for clock in (1950.0, None):
        assert with_clock_mark(result(TRIAL, 1.0, sm_clock_mhz=clock), earlier).marks == ()
    assert with_clock_mark(result(TRIAL, 1.0, sm_clock_mhz=1410.0), [other, disturbed]).marks == ()
