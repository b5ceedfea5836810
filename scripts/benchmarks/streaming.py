"""Measures the driver's CPU time per stage-call and its memory, from 100 to a million tasks.

``python -m benchmarks.streaming COUNT`` measures one run in this process and prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import toys

COUNTS = (100, 10_000, 100_000, 1_000_000)
QUICK_COUNTS = (100, 10_000, 50_000)
_STAGES = 3
_LIMIT_S = 600


def run_here(count: int) -> dict[str, Any]:
    """Stream tiny tasks from a generator through three stages, and drop each result."""
    from gpuexec import LocalExecutor

    stages = [toys.Toy(name) for name in ("first", "second", "third")]
    source = (toys.Piece("bench", b"x" * 64) for _ in range(count))
    started_at, cpu = time.perf_counter(), time.process_time()
    first_cpu = results = 0.0
    for _ in LocalExecutor(show_progress=False).execute_iter(stages, source):
        first_cpu = first_cpu or time.process_time()
        results += 1
    assert results == count, (results, count)
    calls = count * _STAGES
    return {
        "tasks": count,
        "calls_per_s": calls / (time.perf_counter() - started_at),
        "start_cpu_s": first_cpu - cpu,
        "cpu_ms_per_1000_calls": 1e6 * (time.process_time() - first_cpu) / calls,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Run each count in a fresh process."""
    runs = []
    for count in counts:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.streaming", str(count)]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_LIMIT_S, cwd=Path(__file__).parents[1]
        )
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(f"streaming: {count} tasks: {runs[-1]}", file=sys.stderr, flush=True)
    return runs


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table."""
    lines = [
        "| tasks | calls/s | driver CPU to the first result | per 1,000 calls after it | driver's peak RSS |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {run['tasks']:,} | {run['calls_per_s']:,.0f} | {run['start_cpu_s']:.2f} s "
        f"| {run['cpu_ms_per_1000_calls']:.1f} ms | {run['peak_rss_mib']:.0f} MiB |"
        for run in runs
    ]
    return lines


if __name__ == "__main__":
    print(json.dumps(run_here(int(sys.argv[1]))), flush=True)
