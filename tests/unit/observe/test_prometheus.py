"""What a scrape shows, from events alone, read by prometheus-client's own parser."""

from __future__ import annotations

import math
import socket
import struct
import threading
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.observe.metric_table import METRICS
from gpuexec.observe.prometheus import HOST, Exporter, MetricsServer
from gpuexec.planning.model import Phase, Plan, StagePlan, WorkerGrant
from gpuexec.run_facts import RunFacts

UUID = "GPU-0123"
GRANT = WorkerGrant("embed-0", 1, Allocation((GpuShare(3, UUID, "GPU", 1.0, None),)))
PLAN = Plan((Phase((StagePlan(1, "embed", (GRANT,), has_fixed_count=False, reason=""),)),))
READ, EMBED = {"stage": "read", "index": "0"}, {"stage": "embed", "index": "1"}
GPU = {"gpu": "3", "uuid": UUID}
AWKWARD = [
    'quotes " and \\ backslashes',
    "two\nlines\r\n",
    "</script><script>alert(1)</script>",
    "🚀 émoji",
    "lone \udcff surrogate",
    "x" * 300,
    '{a="b"} 1\n# HELP evil',
    "",
]


@pytest.fixture
def exporter() -> Exporter:
    made = Exporter()
    made.on_event(events.RunStarted(10.0, PLAN, ("read", "embed"), RunFacts("abc123", "p"), 1e9))
    return made


def scraped(exporter: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of a scrape. Both formats must be well formed, and tell the same."""
    registry = CollectorRegistry()
    registry.register(exporter)
    plain = samples(text_string_to_metric_families(generate_latest(registry).decode()))
    assert plain == samples(parse_openmetrics(generate_openmetrics(registry).decode()))
    return plain


def samples(families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = [sample for family in families for sample in family.samples]
    by_labels = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}
    assert len(by_labels) == len(found), "labels that are not unique"
    return by_labels


def value(exporter: Exporter, name: str, **labels: str) -> float | None:
    return scraped(exporter).get((name, tuple(sorted(labels.items()))))


def batches(stage: int = 1, *seconds: float, **metrics: float) -> events.BatchesFinished:
    stats = BatchStats(batches=len(seconds), tasks_in=4, items=40, input_bytes=400, output_bytes=200, metrics=metrics)
    for number, each in enumerate(seconds):
        stats.note_time(each, number)
        stats.process_s += each
    return events.BatchesFinished(11.0, stage, "embed-0", (), 3, 0.0, 1.0, stats)


def test_a_stage_has_a_bounded_number_of_metrics_of_its_own(exporter: Exporter):
    for number in range(3000):
        exporter.on_event(batches(1, 0.1, **{f"of task {number}": 1.0, "common": 1.0}))
    exporter.on_event(batches(0, 0.1, other=1.0))
    found = {labels: value for (name, labels), value in scraped(exporter).items() if name == "gpuexec_stage_metric"}
    assert len(found) == 1000 + 1
    assert value(exporter, "gpuexec_stage_metric", **EMBED, metric="common") == 3000.0
    assert value(exporter, "gpuexec_stage_metric", **READ, metric="other") == 1.0


def test_the_run_and_zeros_before_anything_happens(exporter: Exporter):
    found = scraped(exporter)
    (info,) = (dict(labels) for name, labels in found if name == "gpuexec_run_info")
    assert (info["run_id"], info["pipeline"], info["executor"]) == ("abc123", "p", "local")
    assert value(exporter, "gpuexec_run_start_time_seconds") == 1e9
    assert value(exporter, "gpuexec_tasks_total", **READ) == 0.0


def test_batches_are_added_up(exporter: Exporter):
    exporter.on_event(batches(1, 0.3, 0.9, tokens=5.0))
    exporter.on_event(batches(1, 3.0, tokens=2.0, **{"gpuexec.input_bytes": 7.0}))
    for name, expected in {
        "gpuexec_tasks_total": 8,
        "gpuexec_output_tasks_total": 6,
        "gpuexec_items_total": 80,
        "gpuexec_batches_total": 3,
        "gpuexec_input_bytes_total": 800,
        "gpuexec_output_bytes_total": 400,
    }.items():
        assert value(exporter, name, **EMBED) == expected
    assert value(exporter, "gpuexec_stage_metric", **EMBED, metric="tokens") == 7.0
    assert not any("gpuexec.input_bytes" in str(labels) for _, labels in scraped(exporter))


def test_service_times_are_a_histogram(exporter: Exporter):
    exporter.on_event(batches(1, 0.3, 0.9, 3.0, 1e5))
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in scraped(exporter).items()
        if name == "gpuexec_batch_seconds_bucket"
    }
    assert [buckets[bound] for bound in (0.25, 0.5, 1.0, 2.0, 4.0, 4096.0, math.inf)] == [0, 1, 2, 2, 3, 3, 4]
    assert value(exporter, "gpuexec_batch_seconds_count", **EMBED) == 4
    assert value(exporter, "gpuexec_batch_seconds_sum", **EMBED) == pytest.approx(1e5 + 4.2)


def test_where_time_goes(exporter: Exporter):
    exporter.on_event(events.TimeAccounted(12.0, 1, "embed-0", 10.0, (("busy", 1.5), ("no_input", 0.5))))
    exporter.on_event(events.TimeAccounted(13.0, 1, "embed-0", 12.0, (("busy", 1.0),)))
    exporter.on_event(events.GpuTimeAccounted(13.0, UUID, 10.0, "busy"))
    assert value(exporter, "gpuexec_worker_seconds_total", **EMBED, activity="busy") == 2.5
    assert value(exporter, "gpuexec_worker_seconds_total", **EMBED, activity="no_input") == 0.5
    assert value(exporter, "gpuexec_gpu_seconds_total", **GPU, activity="busy") == 3.0


def test_queues_and_workers(exporter: Exporter):
    gauges = [events.StageGauges(done, 5, 2, 3, 1, finished=False) for done in (1, 2)]
    exporter.on_event(events.Gauged(11.0, tuple(gauges)))
    assert value(exporter, "gpuexec_queued_tasks", **EMBED) == 5
    assert value(exporter, "gpuexec_in_flight_tasks", **EMBED) == 2
    assert value(exporter, "gpuexec_workers", **EMBED, state="ready") == 3
    assert value(exporter, "gpuexec_workers", **EMBED, state="starting") == 1


def test_failures(exporter: Exporter):
    exporter.on_event(events.BatchFailed(11.0, 0, "read-0", 1, ("a",), 0.1, "boom", "retry", "attempts_left"))
    exporter.on_event(events.BatchFailed(11.0, 0, "read-0", 1, ("a",), 0.1, "boom", "quarantine", "attempts_spent"))
    exporter.on_event(events.TasksQuarantined(11.0, 0, "read-0", ("a", "b"), "boom"))
    exporter.on_event(events.PayloadsSpilled(11.0, 0, 1000))
    assert value(exporter, "gpuexec_failed_attempts_total", **READ, action="retry") == 1
    assert value(exporter, "gpuexec_quarantined_tasks_total", **READ) == 2
    assert value(exporter, "gpuexec_spilled_bytes_total", **READ) == 1000


def gpu(**readings):
    from gpuexec.hardware.telemetry import GpuSample

    return GpuSample(at=11.0, index=3, uuid=UUID, **readings)


def process(worker_id: str, rss_bytes: int | None):
    from gpuexec.hardware.process_readings import ProcessSample

    return ProcessSample(worker_id, 1, rss_bytes, None, None, {})


def test_gpus_and_processes_as_sampled(exporter: Exporter):
    exporter.on_event(events.WorkerStarted(10.0, 1, "embed-0", 1, "planned"))
    exporter.on_event(events.WorkerStarted(10.0, 1, "embed-1", 2, "planned"))
    sizes = (process("driver", 7), process("embed-0", 100), process("embed-1", 200))
    reading = gpu(memory_used_bytes=5, sm_util_percent=50, power_w=300.0, energy_mj=2500, sm_clock_mhz=1500)
    exporter.on_event(events.NodeSampled(11.0, (reading,), sizes))
    for name, expected in {
        "gpuexec_gpu_memory_used_bytes": 5,
        "gpuexec_gpu_utilization_ratio": 0.5,
        "gpuexec_gpu_power_watts": 300,
        "gpuexec_gpu_energy_joules_total": 2.5,
        "gpuexec_gpu_sm_clock_hertz": 1.5e9,
        "gpuexec_gpu_temperature_celsius": None,
    }.items():
        assert value(exporter, name, **GPU) == expected
    assert value(exporter, "gpuexec_resident_bytes", **EMBED) == 300
    exporter.on_event(events.WorkerStopped(12.0, 1, "embed-1", 0, 0.1))
    assert value(exporter, "gpuexec_resident_bytes", **EMBED) == 100


def test_a_reading_that_is_gone_is_not_shown_as_it_was(exporter: Exporter):
    exporter.on_event(events.NodeSampled(11.0, (gpu(power_w=300.0),), (process("embed-0", None),)))
    exporter.on_event(events.NodeSampled(12.0, (gpu(power_w=None),), (process("embed-0", None),)))
    assert value(exporter, "gpuexec_gpu_power_watts", **GPU) is None
    assert value(exporter, "gpuexec_resident_bytes", **EMBED) is None


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_is_a_label(name: str):
    exporter = Exporter()
    facts = RunFacts("abc123", name)
    exporter.on_event(events.RunStarted(10.0, Plan(()), (name, name), facts, 1e9))
    exporter.on_event(batches(1, 0.3, **{name: 1.0}))
    found = {
        dict(labels)["index"]: number
        for (metric, labels), number in scraped(exporter).items()
        if metric == "gpuexec_tasks_total"
    }
    assert found == {"0": 0, "1": 4}, "stages of one name are told apart"
    assert all(len(label) <= 200 for _, labels in scraped(exporter) for _, label in labels)


def test_the_table_lists_every_metric_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("gpuexec_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_a_client_that_goes_is_no_news(exporter: Exporter, capfd):
    server = MetricsServer(0, exporter)
    try:
        with socket.create_connection((HOST, server.port)) as client:
            client.send(b"GET /met")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        with urllib.request.urlopen(f"http://{HOST}:{server.port}/metrics") as answer:  # the one before is accepted
            assert b"gpuexec_run_info" in answer.read()
        for thread in [t for t in threading.enumerate() if "process_request_thread" in t.name]:
            thread.join()
    finally:
        server.close()
    assert capfd.readouterr().err == ""
