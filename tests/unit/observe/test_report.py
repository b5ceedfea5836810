"""The executor's ledger and the tables made of it, from events alone."""

from __future__ import annotations

import io

from rich.console import Console

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.contract.metrics import TORCH_PEAK, gpu_key
from gpuexec.observe.progress import LineProgress, LiveProgress, Rates
from gpuexec.observe.report import ReportBuilder
from gpuexec.observe.report_table import stage_table
from gpuexec.plan.model import Phase, Plan, StagePlan
from gpuexec.units import format_bytes

PLAN = Plan((Phase((StagePlan(0, "read", (), False, "because"), StagePlan(1, "embed", (), True, "two"))),), ("note",))


def batch(stage: int, worker: str, tasks_in=2, tasks_out=1, at=5.0, metrics=None) -> events.BatchesFinished:
    stats = BatchStats(1, tasks_in, 10, 100, 50, 0.1, 1.0, 0.2, 0.5, 2**20, metrics or {})
    return events.BatchesFinished(at, stage, worker, (1,), tasks_out, 0.25 * tasks_in, 1.5, stats)


def ended() -> ReportBuilder:
    ledger = ReportBuilder()
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
        events.BatchFailed(6.0, 1, "embed-0", 3, ("0_1",), 0.5, "LookupError: x"),
        events.WorkerStopped(7.0, 0, "read-0", 0, 0.1),
        events.WorkerStopped(7.0, 1, "embed-0", -9, None),
        events.RunEnded(8.0, "LookupError: x"),
    ):
        ledger.on_event(event)
    return ledger


def test_batches_add_up_per_stage_and_worker():
    report = ended().report
    read, embed = report.stages
    assert (read.batches, read.tasks_in, read.tasks_out, read.items) == (2, 4, 1, 20)
    assert (read.process_s, read.idle_s, read.input_bytes, read.output_bytes) == (2.0, 1.0, 200, 100)
    assert read.queued_s == 0.25 * 4
    assert abs(read.transfer_s - 2 * 0.2) < 1e-9
    assert (read.plan_reason, embed.plan_reason, report.notes) == ("because", "two", ["note"])
    assert embed.metrics[gpu_key(0, TORCH_PEAK)] == 9.0 * 2**30
    assert (embed.node_setup_s, embed.node_setup_gpu_growth) == (0.7, (("GPU-1", 5),))
    assert (embed.failed_batches, report.failures[0].task_ids, report.failures[0].error) == (
        1,
        ("0_1",),
        "LookupError: x",
    )
    reader, embedder = report.workers
    assert (reader.why, embedder.why) == ("first", "fixed")
    assert (reader.spawn_s, reader.load_s, reader.setup_s, reader.teardown_s) == (0.3, 0.4, 0.5, 0.1)
    assert (reader.first_batch_s, reader.steady_s, reader.batches, reader.exit_code) == (1.0, 1.0, 2, 0)
    assert (embedder.spawn_s, embedder.exit_code, embedder.teardown_s) == (None, -9, None)
    assert (report.wall_s, report.error) == (7.0, "LookupError: x")


def rendered(value, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(value)
    return console.file.getvalue()


def test_the_table_of_a_run():
    text = rendered(stage_table(ended().report))
    assert "failed in 7.00 s" in text
    assert "1 failed" in text
    assert "0: 9.0 GiB (torch_peak_bytes)" in text


def test_the_table_of_a_run_without_anything():
    ledger = ReportBuilder()
    ledger.on_event(events.RunStarted(1.0, PLAN, ("read", "embed")))
    text = rendered(stage_table(ledger.report), 80)
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


def gauges(at: float, done: int, finished: bool = False) -> events.Gauged:
    return events.Gauged(at, tuple(events.StageGauges(done, 3, 2, 1, starting, finished) for starting in (0, 1)))


def test_rates_are_of_the_last_seconds():
    rates = Rates()
    assert rates.update(0.0, (0,)) == [None]
    assert rates.update(2.0, (10,)) == [5.0]
    assert rates.update(20.0, (28,)) == [1.0], "18 tasks in the 18 s since the reading at 2 s"


def test_lines_where_there_is_no_terminal():
    out = io.StringIO()
    progress = LineProgress(out)
    progress.on_event(events.RunStarted(100.0, PLAN, ("read", "embed")))
    progress.on_event(gauges(100.5, 1))
    assert out.getvalue() == "", "a run of less than a second says nothing"
    progress.on_event(gauges(110.0, 5))
    progress.on_event(gauges(120.0, 25))
    progress.on_event(gauges(130.0, 25, finished=True))
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "[   10.0 s] read 5 done, 3 queued, 2 in flight, 1 workers, –"
        " · embed 5 done, 3 queued, 2 in flight, 1 (+1 starting) workers, –"
    )
    assert "2.0/s" in lines[1]
    assert lines[2] == "[   30.0 s] read 25 done ✓ · embed 25 done ✓"


class Heard(list):
    """An observer that remembers."""

    on_event = list.append


def test_the_live_table_makes_way_for_logs(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stderr for a terminal
    inner = Heard()
    live = LiveProgress(inner)
    printed = events.WorkerPrinted(0, "read-0", ("hello",))
    seen = [
        events.RunStarted(100.0, PLAN, ("read", "embed")),
        gauges(100.2, 1),
        gauges(101.2, 11),
        printed,
        gauges(101.4, 12, finished=True),
        events.RunEnded(102.0, None),
    ]
    for event in seen:
        live.on_event(event)
    assert inner == seen
    text = capsys.readouterr().err
    assert "running for 0 s" in text
    assert "10.0/s" in text
    assert "read ✓" in text
