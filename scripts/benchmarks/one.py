"""One measurement: ``python -m benchmarks.one PEER WORKLOAD COUNT`` prints a line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time

from benchmarks.peers import PEERS, REPORTS
from benchmarks.workloads import BY_NAME


def main() -> None:
    """Time one run in this fresh process, from the call to the last result."""
    peer, workload, count = sys.argv[1], BY_NAME[sys.argv[2]], int(sys.argv[3])
    stages, tasks = workload.make(count)
    options = dict(workload.options) if peer == "gpuexec" else {}
    started_at, cpu = time.perf_counter(), time.process_time()
    results = PEERS[peer](stages, tasks, **options)
    stats = {
        "seconds": time.perf_counter() - started_at,
        "cpu_before_s": cpu,
        "driver_cpu_s": time.process_time() - cpu,
        "driver_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "results": len(results),
        "count": count,
    }
    for report in REPORTS:
        steps = [(w.spawn_s, w.load_s, w.setup_s) for w in report.workers]
        stats["startup_s"] = max((sum(s) for s in steps if None not in s), default=0.0)  # None: the run was over before
    if workload.figures is not None:
        stats |= workload.figures(results)
    print(json.dumps(stats), flush=True)


if __name__ == "__main__":
    main()
