"""Serves the figures of a run to Prometheus, on 127.0.0.1 and as long as the run goes on.

The driver's loop adds events to tables; a scrape, in a thread of the server, reads them. `metric_table` says which
figures there are. A reading that is unknown has no sample.
"""

from __future__ import annotations

import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gpuexec import events
from gpuexec._version import __version__
from gpuexec.channel.messages import BatchStats
from gpuexec.contract.metrics import MAX_NAMES, is_own
from gpuexec.histogram import Histogram, add_to, bounds
from gpuexec.observe.metric_table import BUCKETS, METRICS, Metric

HOST = "127.0.0.1"

_MAX_LABEL = 200  # characters
_POLL_S = 0.05  # how long the end of a run may wait for the server

Labels = tuple[str, ...]


class MetricsServer:
    """Serves ``/metrics``. ``port`` is the one that it listens on. Raises ``OSError`` if that is not to be had."""

    def __init__(self, port: int, exporter: Exporter) -> None:
        registry = CollectorRegistry()
        registry.register(exporter)
        self._server = _Server((HOST, port), _Handler)
        self._server.set_app(make_wsgi_app(registry))
        self.port: int = self._server.server_address[1]
        serve = {"poll_interval": _POLL_S}
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs=serve, name="gpuexec-prometheus", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False  # a client that does not read must not hold up the end of a run

    def server_bind(self) -> None:
        """Bind without asking for the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that has gone, or said nothing: stderr has the progress."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds, for a client that connects and says nothing

    def log_message(self, format: str, *_arguments: Any) -> None:  # noqa: A002 - the name in the standard library
        """Log nothing: stderr has the progress."""


class Exporter:
    """Adds up the events of one run, and gives the sums to prometheus-client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {metric.name: {} for metric in METRICS}
        self._metric_names: dict[Labels, set[str]] = {}  # of the stages' own metrics
        self._histograms: dict[Labels, tuple[Histogram, float]] = {}
        self._stages: list[Labels] = []
        self._gpus: dict[str, str] = {}  # index by UUID
        self._worker_stages: dict[str, int] = {}
        self._resident: dict[str, int] = {}  # bytes, by worker

    def on_event(self, event: events.RunEvent) -> None:
        """Add an event."""
        handle = _HANDLERS.get(type(event).__name__)
        if handle is not None:
            with self._lock:
                handle(self, event)

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of this moment, for prometheus-client."""
        with self._lock:
            values = {name: dict(by_labels) for name, by_labels in self._values.items()}
            histograms = {labels: (dict(counts), total) for labels, (counts, total) in self._histograms.items()}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield _histogram_family(metric, histograms)
                continue
            family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                metric.name, metric.about, labels=metric.labels
            )
            for labels, value in values[metric.name].items():
                family.add_metric(labels, value)
            yield family

    # ---- events ----------------------------------------------------------------------------------------

    def _begin(self, event: events.RunStarted) -> None:
        facts = event.facts
        self._stages = [(_label(name), str(index)) for index, name in enumerate(event.stage_names)]
        shares = (s for p in event.plan.phases for stage in p.stages for w in stage.workers for s in w.allocation.gpus)
        self._gpus = {share.uuid: str(share.index) for share in shares}
        self._set("gpuexec_run_info", (facts.run_id, _label(facts.pipeline), facts.executor, __version__), 1.0)
        self._set("gpuexec_run_start_time_seconds", (), event.posix_time)
        self._add("gpuexec_plan_changes_total", (), 0.0)
        for stage in self._stages:  # so that a rate is known from the first event on
            for name in _FROM_ZERO:
                self._add(name, stage, 0.0)

    def _add_batches(self, event: events.BatchesFinished) -> None:
        stage, stats = self._stages[event.stage_index], event.stats
        self._add("gpuexec_tasks_total", stage, stats.tasks_in)
        self._add("gpuexec_output_tasks_total", stage, event.tasks_out)
        self._add("gpuexec_items_total", stage, stats.items)
        self._add("gpuexec_batches_total", stage, stats.batches)
        self._add("gpuexec_input_bytes_total", stage, stats.input_bytes)
        self._add("gpuexec_output_bytes_total", stage, stats.output_bytes)
        self._add_service_times(stage, stats)
        for name, value in stats.metrics.items():
            if not is_own(name):
                self._add_metric(stage, _label(name), value)

    def _add_metric(self, stage: Labels, name: str, value: float) -> None:
        """Add to a stage's own metric. Every name is a time series of Prometheus, so their number is bounded."""
        names = self._metric_names.setdefault(stage, set())
        if name in names or len(names) < MAX_NAMES:
            names.add(name)
            self._add("gpuexec_stage_metric", (*stage, name), value)

    def _add_service_times(self, stage: Labels, stats: BatchStats) -> None:
        counts, total = self._histograms.get(stage, ({}, 0.0))
        add_to(counts, stats.histogram)
        self._histograms[stage] = (counts, total + stats.process_s)

    def _add_failure(self, event: events.BatchFailed) -> None:
        self._add("gpuexec_failed_attempts_total", (*self._stages[event.stage_index], event.action), 1.0)

    def _add_quarantined(self, event: events.TasksQuarantined) -> None:
        self._add("gpuexec_quarantined_tasks_total", self._stages[event.stage_index], len(event.task_ids))

    def _add_spilled(self, event: events.PayloadsSpilled) -> None:
        self._add("gpuexec_spilled_bytes_total", self._stages[event.stage_index], event.bytes)

    def _add_worker(self, event: events.WorkerStarted) -> None:
        self._worker_stages[event.worker_id] = event.stage_index
        self._add("gpuexec_worker_starts_total", self._stages[event.stage_index], 1.0)

    def _remove_worker(self, event: events.WorkerStopped) -> None:
        self._worker_stages.pop(event.worker_id, None)
        if self._resident.pop(event.worker_id, None) is not None:
            self._show_resident(event.stage_index)

    def _add_time(self, event: events.TimeAccounted) -> None:
        for part, seconds in event.parts:
            self._add("gpuexec_worker_seconds_total", (*self._stages[event.stage_index], part), seconds)

    def _add_gpu_time(self, event: events.GpuTimeAccounted) -> None:
        labels = (self._gpus.get(event.uuid, ""), event.uuid, event.part)
        self._add("gpuexec_gpu_seconds_total", labels, event.at - event.began)

    def _add_gauges(self, event: events.Gauged) -> None:
        for stage, gauges in zip(self._stages, event.stages, strict=True):
            self._set("gpuexec_queued_tasks", stage, gauges.queued)
            self._set("gpuexec_in_flight_tasks", stage, gauges.in_flight)
            self._set("gpuexec_workers", (*stage, "ready"), gauges.workers)
            self._set("gpuexec_workers", (*stage, "starting"), gauges.starting)

    def _add_plan_change(self, event: events.PlanDecided) -> None:
        if event.started or event.stopped:
            self._add("gpuexec_plan_changes_total", (), 1.0)

    def _add_samples(self, event: Any) -> None:
        for gpu in event.gpus:
            self._gpus.setdefault(gpu.uuid, str(gpu.index))
            labels = (str(gpu.index), gpu.uuid)
            for name, (attribute, factor) in _GPU_READINGS.items():
                value = getattr(gpu, attribute)
                if value is None:
                    self._values[name].pop(labels, None)
                else:
                    self._set(name, labels, value * factor)
        known = {p.worker_id: p.rss_bytes for p in event.processes if p.rss_bytes is not None}
        self._resident = {worker: size for worker, size in known.items() if worker in self._worker_stages}
        for index in range(len(self._stages)):
            self._show_resident(index)

    def _show_resident(self, index: int) -> None:
        """Set the resident memory of a stage's workers; without a reading there is none."""
        sizes = [size for worker, size in self._resident.items() if self._worker_stages.get(worker) == index]
        if sizes:
            self._set("gpuexec_resident_bytes", self._stages[index], sum(sizes))
        else:
            self._values["gpuexec_resident_bytes"].pop(self._stages[index], None)

    # ---- tables ----------------------------------------------------------------------------------------

    def _set(self, name: str, labels: Labels, value: float) -> None:
        self._values[name][labels] = value

    def _add(self, name: str, labels: Labels, amount: float) -> None:
        by_labels = self._values[name]
        by_labels[labels] = by_labels.get(labels, 0.0) + amount


_FROM_ZERO = tuple(
    metric.name for metric in METRICS if metric.kind == "counter" and metric.labels == ("stage", "index")
)
_GPU_READINGS = {  # attribute of a sample, and what makes its unit the metric's
    "gpuexec_gpu_memory_used_bytes": ("memory_used_bytes", 1.0),
    "gpuexec_gpu_memory_total_bytes": ("memory_total_bytes", 1.0),
    "gpuexec_gpu_utilization_ratio": ("sm_util_percent", 0.01),
    "gpuexec_gpu_memory_utilization_ratio": ("memory_util_percent", 0.01),
    "gpuexec_gpu_power_watts": ("power_w", 1.0),
    "gpuexec_gpu_energy_joules_total": ("energy_mj", 1e-3),
    "gpuexec_gpu_temperature_celsius": ("temperature_c", 1.0),
    "gpuexec_gpu_sm_clock_hertz": ("sm_clock_mhz", 1e6),
}
_HANDLERS: dict[str, Callable[[Any, Any], None]] = {
    "RunStarted": Exporter._begin,
    "BatchesFinished": Exporter._add_batches,
    "BatchFailed": Exporter._add_failure,
    "TasksQuarantined": Exporter._add_quarantined,
    "PayloadsSpilled": Exporter._add_spilled,
    "WorkerStarted": Exporter._add_worker,
    "WorkerStopped": Exporter._remove_worker,
    "TimeAccounted": Exporter._add_time,
    "GpuTimeAccounted": Exporter._add_gpu_time,
    "Gauged": Exporter._add_gauges,
    "PlanDecided": Exporter._add_plan_change,
    "NodeSampled": Exporter._add_samples,
}


def _label(text: str) -> str:
    """Return a text of the user's as a label: UTF-8, and not too long. Its index tells apart what is alike then."""
    plain = text.encode(errors="backslashreplace").decode()
    return plain if len(plain) <= _MAX_LABEL else f"{plain[: _MAX_LABEL - 1]}…"


def _histogram_family(metric: Metric, histograms: dict[Labels, tuple[Histogram, float]]) -> Any:
    family = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
    for labels, (counts, total) in histograms.items():
        buckets = [(repr(2.0**power), _count_below(counts, power)) for power in BUCKETS]
        family.add_metric(labels, [*buckets, ("+Inf", float(sum(counts.values())))], total)
    return family


def _count_below(counts: Histogram, power: int) -> float:
    return float(sum(count for number, count in counts.items() if bounds(number)[1] <= 2.0**power))
