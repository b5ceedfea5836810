"""The first sentence of a verdict names what limits a run; every sentence has its figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from gpuexec.report.verdict import verdict
from tests.unit.report.report_of import report_of
from tests.unit.report.report_strategies import reports
from tests.unit.report.sample_reports import SAMPLES, a_task_that_failed, one_task
from tests.unit.report.simulated_run import SimRun, SimStage

READ = SimStage("read", 0.001)
DECODE = SimStage("decode", 0.02, 4)
CAPTION = SimStage("caption", 0.02, 2, gpus=1.0)
WRITE = SimStage("write", 0.005)


def with_caption(**changes: Any) -> tuple[SimStage, ...]:
    return (
        READ,
        DECODE,
        SimStage(**{"name": "caption", "service_s": 0.02, "workers": 2, "gpus": 1.0, **changes}),
        WRITE,
    )


PLANTED: dict[str, tuple[SimRun, str, str]] = {
    "a source that makes many tasks of one": (
        SimRun((SimStage("list", 30.0, fan_out=1000), DECODE, WRITE), 1),
        "slow_source",
        "The source, `list`",
    ),
    "a slow first stage": (SimRun((SimStage("read", 0.05), DECODE, WRITE), 1000), "slow_source", "The source, `read`"),
    "a program that passes tasks in slowly": (
        SimRun((READ, DECODE, WRITE), 1000, input_per_s=20),
        "slow_source",
        "The source limits",
    ),
    "a slow stage on GPUs": (SimRun(with_caption(service_s=0.8), 500), "slow_gpu_stage", "`caption` limits"),
    "a slow stage without GPUs": (
        SimRun((READ, SimStage("parse", 0.2, 2), WRITE), 500),
        "slow_stage",
        "`parse` limits",
    ),
    "a GPU without input": (
        SimRun((READ, SimStage("decode", 0.2, 4), CAPTION, WRITE), 1000),
        "starved_gpu",
        "The 2 GPUs of `caption` had no input",
    ),
    "a queue that is full": (
        SimRun((READ, DECODE, SimStage("write", 0.05, setup_s=0.5)), 1000),
        "slow_stage",
        "`write` limits this run: 1 worker busy 99 %; the queue before it was full",
    ),
    "setting up": (SimRun(with_caption(setup_s=60.0), 1000), "setup", "Setting up limits"),
    "one slow task": (SimRun(with_caption(), 1000, slow_task=(2, 25.0)), "slow_task", "One slow task limits"),
    "throttled GPUs": (
        SimRun(with_caption(service_s=0.3), 500, throttled=(0.2, 0.9, 0.6)),
        "throttling",
        "Throttled GPUs limit",
    ),
    "memory pressure": (
        SimRun((SimStage("read", 0.02), CAPTION, WRITE), 1000, pressure_share=0.8),
        "memory_pressure",
        "Memory pressure limits",
    ),
    "a caller that does not read": (
        SimRun((READ, CAPTION, WRITE), 500, results_per_s=8),
        "caller_not_reading",
        "The caller",
    ),
    "retries": (
        SimRun(with_caption(service_s=0.1, lost_share=0.6, retry_delay_share=0.3), 500),
        "retries",
        "Retries limit",
    ),
    "moving data": (SimRun(with_caption(service_s=0.1, transfer_share=0.7), 500), "transfer", "Moving data limits"),
    "writing the checkpoint": (
        SimRun((READ, SimStage("store", 0.1, checkpoint_share=0.7)), 500),
        "checkpoint_write",
        "Writing the checkpoint limits",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_first_sentence_names_the_planted_bottleneck(name: str):
    run, kind, beginning = PLANTED[name]
    first = verdict(report_of(run))[0]
    assert first["text"].startswith(beginning)
    assert first["kind"] == kind


@pytest.mark.parametrize("name", ["a slow stage on GPUs", "a GPU without input", "throttled GPUs"])
def test_a_stage_that_asks_for_gpu_memory_is_on_gpus_too(name: str):
    run, kind, beginning = PLANTED[name]
    report = report_of(run)
    for stage in report["stages"]:
        stage |= {"gpus": 0.0, "gpu_memory_gb": 60.0 if stage["gpus"] else 0.0}
    first = verdict(report)[0]
    assert first["kind"] == kind
    assert first["text"].startswith(beginning)
    if kind == "slow_gpu_stage":
        assert "one more worker (60 GiB of a GPU) would give" in first["text"]


def test_the_sentence_says_which_stage_is_at_fault():
    assert verdict(report_of(PLANTED["a GPU without input"][0]))[0]["stage_index"] == 1
    assert verdict(report_of(PLANTED["one slow task"][0]))[0]["stage_index"] == 2


def test_one_more_gpu_gives_what_division_says():
    """Seven GPUs instead of six do the same work in six sevenths of the time."""
    stages = (READ, SimStage("caption", 0.6, 6, gpus=1.0, setup_s=0.01), WRITE)
    first = verdict(report_of(SimRun(stages, 2000)))[0]
    assert first["figures"]["gain_share"] == pytest.approx(1 / 6, rel=0.05)
    assert "one more GPU would give +17 %, a faster source nothing" in first["text"]
    assert first["figures"]["busy_share"] == pytest.approx(1, abs=0.02)


def test_the_gain_ends_at_the_next_stage():
    """`parse` needs 0.19 s a task where `embed` needs 0.2 s: more of `embed` gives a twentieth."""
    stages = (SimStage("embed", 0.2, setup_s=0.01), SimStage("parse", 0.19, setup_s=0.01))
    first, second, *_ = verdict(report_of(SimRun(stages, 400)))
    assert first["figures"]["gain_share"] == pytest.approx(0.05, abs=0.01)
    assert second["kind"] == "next_limit"


def test_batches_that_the_driver_does_not_take_are_the_callers():
    """Where the caller is busy, workers without a batch say so, and those with one seem to move data."""
    report = report_of(SimRun((READ, DECODE, WRITE), 500))
    wall = report["wall_s"]
    times = (
        {"busy": 0.05, "caller_not_reading": 0.8, "transfer": 0.1},
        {"busy": 0.1, "transfer": 0.85},
        {"busy": 0.1, "transfer": 0.9},
    )
    for stage, time in zip(report["stages"], times, strict=True):
        stage["time"] = {state: share * wall for state, share in time.items()}
    assert verdict(report)[0]["kind"] == "caller_not_reading"


def test_of_fused_stages_the_heaviest_is_named():
    report = report_of(SimRun((SimStage("read", 0.001), SimStage("split", 0.01), WRITE), 1000))
    report["stages"][1]["process_s"] = 1.0
    report["stages"][2] |= {"lead_index": 1, "process_s": 9.0, "time": {}}
    first = verdict(report)[0]
    assert first["text"].startswith("`write` limits this run")
    assert first["stage_index"] == 2


def test_workers_for_which_there_was_no_batch_do_not_hide_a_slow_source():
    report = report_of(SimRun((SimStage("list", 20.0, 1, fan_out=500), WRITE), 1))
    report["stages"][0]["time"] |= {"no_input": 60.0}
    report["stages"][0]["timeline"] |= {"workers": [4.0] * report["timeline"]["bins"]}
    first = verdict(report)[0]
    assert first["kind"] == "slow_source"
    assert first["text"].startswith("The source, `list`, limits")


def test_a_stage_with_a_part_of_a_gpu_is_offered_that_part():
    stages = (READ, SimStage("embed", 0.2, 4, gpus=0.25), WRITE)
    assert "one more worker (0.25 GPU) would give +25 %" in verdict(report_of(SimRun(stages, 1000)))[0]["text"]


def test_more_workers_are_not_promised_to_a_single_batch():
    first = verdict(one_task())[0]
    assert "more workers would have nothing to do" in first["text"]
    assert "gain_share" not in first["figures"]


def test_a_run_of_few_tasks_that_go_from_stage_to_stage_is_not_blamed_on_a_stage():
    report = report_of(SimRun((READ, DECODE, WRITE), 100), tasks_in=1)
    wall = report["wall_s"]
    for stage in report["stages"]:
        other = "no_input" if stage["index"] else "output_full"
        stage |= {"tasks_in": 1, "batches": 1, "time": {"busy": 0.3 * wall, other: 0.7 * wall}}
    report |= {"slowest": []}
    assert verdict(report)[0]["kind"] == "few_tasks"


def test_a_queue_that_is_full_although_the_next_stage_is_idle_is_named_itself():
    report = report_of(SimRun((READ, DECODE, WRITE), 1000))
    wall = report["wall_s"]
    times = ({"busy": 0.1, "output_full": 0.9}, {"busy": 0.3, "output_full": 0.7}, {"busy": 0.35, "no_input": 0.65})
    for stage, time in zip(report["stages"], times, strict=True):
        stage["time"] = {state: share * wall for state, share in time.items()}
    found = verdict(report)[0]
    assert found["kind"] == "full_queue"
    assert found["text"].startswith("The queue before `write` limits this run")


def test_one_throttled_gpu_of_several_is_counted():
    report = report_of(PLANTED["throttled GPUs"][0])
    series = next(series for series in report["gpus"][0]["series"] if series["name"] == "throttle")
    series["mean"] = [0.0 for _ in series["mean"]]
    first = verdict(report)[0]
    assert first["kind"] == "throttling"
    assert first["figures"]["throttled_gpus"] == 1
    assert "1 of them was slowed down" in first["text"]


def test_a_failed_run_says_first_where_and_why():
    first, second, *others = verdict(a_task_that_failed())
    assert first["text"].startswith("This run failed after")
    assert "in `caption`: torch.OutOfMemoryError: CUDA out of memory" in first["text"]
    assert second["kind"] == "slow_gpu_stage"
    assert {"quarantined", "failed_attempts"} <= {found["kind"] for found in others}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"interrupted": True, "ok": False, "error": "KeyboardInterrupt"}, "interrupted"),
        ({"ended": False, "ok": False, "wall_s": None}, "unfinished"),
        ({"ok": False, "error": "the disk is full"}, "failed"),
    ],
)
def test_a_run_that_did_not_succeed_says_so_first(changes: dict[str, Any], kind: str):
    found = verdict(report_of(PLANTED["a slow stage on GPUs"][0], **changes))
    assert [sentence["kind"] for sentence in found[:2]] == [kind, "slow_gpu_stage"]


def test_nothing_recorded_is_no_verdict():
    assert [found["kind"] for found in verdict({})] == ["no_data"]


def test_energy_is_only_told_where_it_was_measured():
    def kinds(joules: float | None, kind: str | None) -> set[str]:
        report = report_of(PLANTED["a slow stage on GPUs"][0])
        for gpu in report["gpus"]:
            gpu["energy"] = {"joules": joules, "kind": kind, "reason": None, "idle_watts": 70.0}
        return {found["kind"] for found in verdict(report)}

    assert "energy" in kinds(5e5, "measured")
    assert "energy" not in kinds(5e5, "short")
    assert "energy" not in kinds(None, None)


def test_names_stay_on_one_short_line():
    name = "line one\nline `two`\n" + "x" * 300
    text = verdict(report_of(SimRun((READ, SimStage(name, 0.3), WRITE), 300)))[0]["text"]
    assert "\n" not in text
    assert text.count("`") % 2 == 0
    assert len(text) < 400


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_every_sentence_has_words_and_finite_figures(make: Callable[[], dict[str, Any]]):
    check(verdict(make()))


@given(reports())
def test_any_report_gets_a_verdict(report: dict[str, Any]):
    check(verdict(report))


def check(found: list[dict[str, Any]]) -> None:
    assert found
    for sentence in found:
        assert sentence["kind"]
        assert sentence["text"].endswith((".", "…"))
        assert "nan" not in sentence["text"].split()
        assert "inf" not in sentence["text"].split()
        assert all(math.isfinite(value) for value in sentence["figures"].values())
