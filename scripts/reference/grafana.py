"""docs/grafana/gpuexec.json: a dashboard of the metrics that a run serves to Prometheus."""

import json
from typing import Any, NamedTuple

_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RUN = 'instance=~"$instance"'
_QUANTILE = (
    "histogram_quantile(SHARE, sum by (le, stage, index) (rate(gpuexec_batch_seconds_bucket{RUN}[$__rate_interval])))"
)
_SHARES = (("0.5", "median"), ("0.99", "99 %"))


class Panel(NamedTuple):
    """A graph: PromQL expressions with their legends. ``RUN`` in an expression stands for the chosen runs."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False


PANELS = (
    Panel("Tasks per second", "ops", (("rate(gpuexec_tasks_total{RUN}[$__rate_interval])", "{{stage}}"),)),
    Panel("Items per second", "ops", (("rate(gpuexec_items_total{RUN}[$__rate_interval])", "{{stage}}"),)),
    Panel(
        "Where the workers' time goes (workers)",
        "none",
        (
            (
                "sum by (stage, index, activity) (rate(gpuexec_worker_seconds_total{RUN}[$__rate_interval]))",
                "{{stage}}: {{activity}}",
            ),
        ),
        stacked=True,
    ),
    Panel("Tasks waiting", "none", (("gpuexec_queued_tasks{RUN}", "{{stage}}"),)),
    Panel("Workers", "none", (("gpuexec_workers{RUN}", "{{stage}}: {{state}}"),)),
    Panel(
        "Time of a batch",
        "s",
        tuple((_QUANTILE.replace("SHARE", share), f"{{{{stage}}}}: {label}") for share, label in _SHARES),
    ),
    Panel(
        "Failed attempts and quarantined tasks",
        "none",
        (
            ("gpuexec_failed_attempts_total{RUN}", "{{stage}}: {{action}}"),
            ("gpuexec_quarantined_tasks_total{RUN}", "{{stage}}: tasks in quarantine"),
        ),
    ),
    Panel(
        "Bytes per second",
        "Bps",
        (
            ("rate(gpuexec_input_bytes_total{RUN}[$__rate_interval])", "{{stage}}: in"),
            ("rate(gpuexec_output_bytes_total{RUN}[$__rate_interval])", "{{stage}}: out"),
        ),
    ),
    Panel("Resident memory of the workers", "bytes", (("gpuexec_resident_bytes{RUN}", "{{stage}}"),)),
    Panel("What stages have logged", "none", (("gpuexec_stage_metric{RUN}", "{{stage}}: {{metric}}"),)),
    Panel(
        "Where the GPUs' time goes",
        "percentunit",
        (("rate(gpuexec_gpu_seconds_total{RUN}[$__rate_interval])", "GPU {{gpu}}: {{activity}}"),),
        stacked=True,
    ),
    Panel("GPU utilisation", "percentunit", (("gpuexec_gpu_utilization_ratio{RUN}", "GPU {{gpu}}"),)),
    Panel(
        "GPU memory",
        "bytes",
        (
            ("gpuexec_gpu_memory_used_bytes{RUN}", "GPU {{gpu}}"),
            ("gpuexec_gpu_memory_total_bytes{RUN}", "GPU {{gpu}}: all"),
        ),
    ),
    Panel("GPU power", "watt", (("gpuexec_gpu_power_watts{RUN}", "GPU {{gpu}}"),)),
    Panel("GPU energy", "joule", (("increase(gpuexec_gpu_energy_joules_total{RUN}[$__range])", "GPU {{gpu}}"),)),
    Panel("GPU temperature", "celsius", (("gpuexec_gpu_temperature_celsius{RUN}", "GPU {{gpu}}"),)),
)


def dashboard() -> str:
    document = {
        "title": "gpuexec",
        "uid": "gpuexec",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": [_data_source(), _instances()]},
        "annotations": {"list": [_runs()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(document, indent=2) + "\n"


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Run served at",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(gpuexec_run_info, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _runs() -> dict[str, Any]:
    """Mark when runs began."""
    return {
        "name": "runs",
        "enable": True,
        "datasource": _SOURCE,
        "expr": f"gpuexec_run_start_time_seconds{{{_RUN}}} * 1000",
        "useValueForTime": True,
        "titleFormat": "run began",
        "iconColor": "blue",
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS // _WIDTH)
    stacking = {"mode": "normal", "group": "A"} if panel.stacked else {"mode": "none", "group": "A"}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "stacking": stacking}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "expr": text.replace("RUN", _RUN),
                "legendFormat": legend,
            }
            for i, (text, legend) in enumerate(panel.queries)
        ],
    }
