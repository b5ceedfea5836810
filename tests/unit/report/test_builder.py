"""The report that a run's events add up to, and the closing table made of it."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from rich.console import Console

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.contract.metrics import TORCH_PEAK, gpu_key
from gpuexec.core.retries import Action, DecisionReason
from gpuexec.hardware.process_readings import ProcessSample
from gpuexec.hardware.provenance import Provenance
from gpuexec.planning.model import Phase, Plan, StagePlan
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.report.table import stage_table
from gpuexec.run_facts import HostState
from gpuexec.units import format_bytes

PLAN = Plan((Phase((StagePlan(0, "read", (), False, "because"), StagePlan(1, "embed", (), True, "two"))),), ("note",))


def batch(stage_index: int, worker_id: str, tasks_in=2, tasks_out=1, at=5.0, metrics=None) -> events.BatchesFinished:
    stats = BatchStats(1, tasks_in, 10, 100, 50, 0.1, 1.0, 0.2, 0.5, 2**20, metrics or {})
    return events.BatchesFinished(at, stage_index, worker_id, (1,), tasks_out, 0.25 * tasks_in, 1.5, stats)


def report_of_a_run() -> RunReport:
    builder = ReportBuilder()
    for event in (
        events.RunStarted(1.0, PLAN, ("read", "embed")),
        events.WorkerStarted(1.0, 0, "read-0", 11, "first"),
        events.WorkerStarted(1.0, 1, "embed-0", 12, "fixed"),
        events.WorkerLoaded(2.0, 0, "read-0", 0.3, 0.4),
        events.NodeSetUp(2.0, 1, 0.7, (("GPU-1", 5),)),
        events.WorkerReady(2.0, 0, "read-0", 0.5),
        batch(0, "read-0"),
        batch(0, "read-0", tasks_out=0),
        batch(1, "embed-0", metrics={gpu_key(0, TORCH_PEAK): 7.0 * 2**30}),
        batch(1, "embed-0", metrics={gpu_key(0, TORCH_PEAK): 9.0 * 2**30}),
        events.BatchFailed(
            at=6.0,
            stage_index=1,
            worker_id="embed-0",
            batch_id=3,
            task_ids=("0_1",),
            elapsed_s=0.5,
            error="LookupError: x",
            action=Action.QUARANTINE.value,
            reason=DecisionReason.ATTEMPTS_SPENT.value,
        ),
        events.BatchFailed(
            at=6.0,
            stage_index=1,
            worker_id="embed-1",
            batch_id=None,
            task_ids=(),
            elapsed_s=0.0,
            error="no model",
            action=Action.RAISE.value,
            reason=DecisionReason.CANNOT_SET_UP.value,
        ),
        events.TasksQuarantined(6.0, 1, "embed-0", ("0_1", "0_2"), "LookupError: x"),
        events.WorkerStopped(7.0, 0, "read-0", 0, 0.1),
        events.WorkerStopped(7.0, 1, "embed-0", -9, None, reason="killed by SIGKILL (signal 9)"),
        events.RunEnded(8.0, "LookupError: x", host=HostState(2.5, 2**30)),
    ):
        builder.on_event(event)
    return builder.report


def test_batches_add_up_per_stage_and_worker():
    report = report_of_a_run()
    read, embed = report.stages
    assert (read.batches, read.tasks_in, read.tasks_out, read.items) == (2, 4, 1, 20)
    assert (read.process_s, read.idle_s, read.input_bytes, read.output_bytes) == (2.0, 1.0, 200, 100)
    assert read.queued_s == 0.25 * 4
    assert abs(read.transfer_s - 2 * 0.2) < 1e-9
    assert (read.plan_reason, embed.plan_reason, report.notes) == ("because", "two", ["note"])
    assert embed.metrics[gpu_key(0, TORCH_PEAK)] == 9.0 * 2**30
    assert (embed.node_setup_s, embed.node_setup_gpu_growth_bytes) == (0.7, (("GPU-1", 5),))
    reader, embedder = report.workers
    assert (reader.start_reason, embedder.start_reason) == ("first", "fixed")
    assert (reader.spawn_s, reader.load_s, reader.setup_s, reader.teardown_s) == (0.3, 0.4, 0.5, 0.1)
    assert [(worker.stage_index, worker.stage_name) for worker in report.workers] == [(0, "read"), (1, "embed")]
    assert (reader.first_batch_process_s, reader.later_batches_process_s) == (1.0, 1.0)
    assert (reader.batches, reader.exit_code) == (2, 0)
    assert (embedder.spawn_s, embedder.exit_code, embedder.teardown_s) == (None, -9, None)
    assert (reader.end_reason, embedder.end_reason) == (None, "killed by SIGKILL (signal 9)")
    assert (report.wall_s, report.error) == (7.0, "LookupError: x")
    assert report.to_dict()["host_after"] == {"load_1m": 2.5, "memory_available_bytes": 2**30}
    assert (report.gpus_before, report.gpus_after) == (None, None)


def test_another_thread_may_read_a_report_while_it_grows():
    builder, problems, done = ReportBuilder(), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                builder.report.to_json()
                str(builder.report)
            except Exception as error:
                problems.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        builder.on_event(events.RunStarted(1.0, PLAN, ("read", "embed")))
        for number in range(80):
            processes = tuple(ProcessSample(f"read-{n}", n, 5, 1.0, (), {}) for n in range(number))
            builder.on_event(events.WorkerStarted(1.0 + number, 0, f"read-{number}", number, ""))
            builder.on_event(batch(0, f"read-{number}", metrics={f"metric {number}": 1.0}))
            builder.on_event(events.NodeSampled(1.0 + number, (), processes))
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert problems == []


@pytest.mark.parametrize("at_once", [1, 7, 5000])
def test_a_report_keeps_the_first_names_of_metrics_and_says_so_once(at_once):
    builder = ReportBuilder()
    for event in (events.RunStarted(1.0, PLAN, ("read", "embed")), events.WorkerStarted(1.0, 0, "read-0", 11, "")):
        builder.on_event(event)
    names = [f"of task {number}" for number in range(5000)]
    for start in range(0, len(names), at_once):
        own = {"gpuexec.input_bytes": 8.0}
        builder.on_event(batch(0, "read-0", metrics=dict.fromkeys(names[start : start + at_once], 1.0) | own))
    builder.on_event(batch(0, "read-0", metrics={names[0]: 2.0, names[-1]: 2.0}))
    (read, _), (_, note) = builder.report.stages, builder.report.notes
    assert read.metrics.keys() == {*names[:1000], "gpuexec.input_bytes"}
    assert read.metrics[names[0]] == 3.0
    assert "'read' logs metrics under more than 1,000 names" in note


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_no_number_under_names_of_the_executor_harms_no_report(odd):
    builder = ReportBuilder()
    metrics = {gpu_key(0, TORCH_PEAK): odd, "gpuexec.oom_splits": odd, "own": odd}
    for event in (
        events.RunStarted(1.0, PLAN, ("read", "embed")),
        events.WorkerStarted(1.0, 0, "read-0", 11, ""),
        batch(0, "read-0", metrics=metrics),
    ):
        builder.on_event(event)
    (read, _) = builder.report.to_dict()["stages"]
    assert read["gpu_memory"]["peak_bytes"] is None
    assert read["metrics"]["own"] is None
    assert "own" in builder.report.to_json()
    assert "read" in str(builder.report)


def test_failed_attempts_say_what_was_done_and_why():
    report = report_of_a_run()
    at_batch, at_setup = report.failures
    assert (at_batch.stage_index, at_batch.stage_name, at_batch.worker_id) == (1, "embed", "embed-0")
    assert (at_batch.task_ids, at_batch.elapsed_s, at_batch.error) == (("0_1",), 0.5, "LookupError: x")
    assert (at_batch.action, at_batch.reason) == (Action.QUARANTINE, DecisionReason.ATTEMPTS_SPENT)
    assert (at_setup.action, at_setup.reason) == (Action.RAISE, DecisionReason.CANNOT_SET_UP)
    assert report.stages[1].failed_attempts == 1, "a set-up is no attempt at a batch"


def test_quarantined_tasks_name_their_stage():
    assert [(q.stage_index, q.stage_name, q.task_id) for q in report_of_a_run().quarantined] == [
        (1, "embed", "0_1"),
        (1, "embed", "0_2"),
    ]


def test_the_state_of_the_gpus_is_kept():
    builder = ReportBuilder()
    before, after = Provenance(driver_version="1"), Provenance(driver_version="2")
    builder.on_event(events.GpusRead(before, after, ("a slow GPU",)))
    assert (builder.report.gpus_before, builder.report.gpus_after) == (before, after)
    assert builder.report.notes == ["a slow GPU"]


def rendered(value, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(value)
    return console.file.getvalue()


def test_the_table_of_a_run():
    text = rendered(stage_table(report_of_a_run()))
    assert "failed in 7 s" in text
    assert "1 failed attempt\n" in text
    assert "2 quarantined" in text
    assert "0: 9.0 GiB (torch_peak_bytes)" in text


def test_the_table_says_where_the_time_went():
    builder = ReportBuilder()
    plan = Plan((Phase((StagePlan(0, "read", (), False, ""), StagePlan(1, "embed", (), True, "", fused=(2,)))),))
    builder.on_event(events.RunStarted(0.0, plan, ("read", "embed", "score")))
    builder.on_event(events.TimeAccounted(4.0, 0, "read-0", 0.0, (("busy", 1.0), ("output_full", 2.5), ("lost", 0.5))))
    builder.on_event(events.TimeAccounted(4.0, 1, "embed-0", 0.0, (("busy", 4.0),)))
    headings, _, read, embed, score = list(stage_table(builder.report).lines(80))[1:]
    assert "busy         idle for" in headings
    assert "25%  output full 62%" in read
    assert "100%" in embed
    assert "–  " in score
    assert "fused" in score, "the time of its workers is its lead's"


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_the_table_names_every_stage_and_keeps_figures_whole_at_any_width(width):
    lines = rendered(stage_table(report_of_a_run()), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("read") for line in lines)
    assert any(line.startswith("embed") for line in lines)
    assert any("0: 9.0 GiB" in line for line in lines)


def test_the_table_of_a_run_that_has_just_begun():
    builder = ReportBuilder()
    builder.on_event(events.RunStarted(1.0, PLAN, ("read", "embed")))
    text = rendered(stage_table(builder.report), 80)
    assert "still running" in text
    assert "GPU peak" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_sizes_have_binary_units():
    assert [format_bytes(size) for size in (0, 1023, 1024, 1.5 * 2**30, 2**60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "1048576.0 TiB",
    ]
