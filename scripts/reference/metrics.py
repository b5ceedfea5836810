"""docs/metrics.md: what a run serves to Prometheus, from the exporter's table; and NVTX, which is written by hand."""

from gpuexec.observe.metric_table import BUCKETS, METRICS, Metric

HEAD = """# Metrics for Prometheus, and NVTX

Made by `scripts/make-reference` from `gpuexec/observe/metric_table.py`.

`gpuexec run … --prometheus 9400`, or `LocalExecutor(prometheus_port=9400)`, serves the figures of a run on
`http://127.0.0.1:9400/metrics` while it goes on, and on no other address. It needs `pip install 'gpuexec[prometheus]'`.
The server ends with the run. If the port is in use, the run is refused before anything starts; port 0 takes any that is
free, and a log line names it. `InlineExecutor` has the option too.

A scrape configuration for runs of any length:

```yaml
scrape_configs:
  - job_name: gpuexec
    scrape_interval: 5s
    static_configs:
      - targets: ["127.0.0.1:9400"]
```

[grafana/gpuexec.json](grafana/gpuexec.json) is a dashboard of these metrics: import it in Grafana and choose the data
source. What a run did is also in its report, without any of this.

## Names
"""

TAIL = """
* `stage` is the stage's name as far as 200 characters, `index` its position in the pipeline, which tells stages of one
  name apart. What is not UTF-8 in a name is written with backslashes.
* `activity` is `busy`, `transfer`, `lost` (work of an attempt that failed), or why a worker or GPU was idle:
  `no_input`, `output_full`, `no_gpu_room`, `setting_up`, `retry_delay`, `memory_pressure`, `checkpoint_write`,
  `draining` or `caller_not_reading`. The times of a stage's workers add up to the time that they have lived; the stages
  of a fused group have them at the first stage.
* `gpu` is the number that NVML gives the GPU, as `gpuexec gpus` shows it.
* A reading that is not known has no sample: it is never 0.
* Energy is the GPU's own counter, of everything that ran on it. Its rate is the mean power.
* The buckets of `gpuexec_batch_seconds` are powers of two from {low:g} to {high:g} seconds.

Two examples, the busy share of each stage's workers, and the time of 99 % of its batches:

```promql
rate(gpuexec_worker_seconds_total{{activity="busy"}}[1m])
  / ignoring(activity) sum without (activity) (rate(gpuexec_worker_seconds_total[1m]))
histogram_quantile(0.99, sum by (le, stage, index) (rate(gpuexec_batch_seconds_bucket[1m])))
```

## NVTX

With `GPUEXEC_NVTX=1` in the environment and the package `nvtx` installed, workers put NVTX ranges around what they do,
which Nsight Systems shows beside the work of the GPU: `GPUEXEC_NVTX=1 nsys profile gpuexec run …`. In the domain
`gpuexec` there is a range `batch` for each batch, with its number as the payload, and in it a range with the stage's
name around the stage's own code; `NAME: setup_on_node`, `NAME: setup` and `NAME: teardown` are around those methods.
Without the variable nothing is imported and no range is made.
"""


def metrics_page() -> str:
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|", *map(_row, METRICS)]
    low, high = 2.0 ** BUCKETS[0], 2.0 ** BUCKETS[-1]
    return HEAD + "\n" + "\n".join(rows) + "\n" + TAIL.format(low=low, high=high)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.about} |"
