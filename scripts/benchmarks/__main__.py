"""Interleaved rounds of every peer on every workload; medians, ratios, a table and a plot in docs/."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import peers, planning, streaming
from benchmarks.report import show_section, write_report
from benchmarks.workloads import WORKLOADS, Workload

_LIMIT_S = 300
STREAMING = "streaming"
_QUICK_SHARE = 5  # --quick does a fifth of the work

Runs = dict[str, dict[str, list[dict[str, Any]]]]  # workload → peer → measurements


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of smaller workloads, under 5 minutes")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs of each")
    parser.add_argument("--without-ray", action="store_true", help="leave NeMo Curator's own backends out")
    parser.add_argument("--peers", nargs="+", choices=list(peers.PEERS), default=list(peers.PEERS))
    parser.add_argument("--workloads", nargs="+", choices=[*(w.name for w in WORKLOADS), *planning.CASES, STREAMING])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "docs", help="folder of the report")
    options = parser.parse_args()
    chosen = [w for w in WORKLOADS if not options.workloads or w.name in options.workloads]
    names = [p for p in options.peers if not (options.without_ray and p in peers.RAY)]
    cases = [case for case in planning.CASES if not options.workloads or case in options.workloads]
    planning.report(cases, options.rounds, options.output, quick=options.quick)
    if not options.workloads or STREAMING in options.workloads:
        found = streaming.measure(streaming.QUICK_COUNTS if options.quick else streaming.COUNTS)
        show_section("streaming", streaming.table(found), options.output, save=not options.quick)
    if not chosen:
        return 0
    runs = measure(chosen, names, rounds=1 if options.quick else options.rounds, quick=options.quick)
    document = {"machine": machine(), "quick": options.quick, "medians": medians(runs), "runs": runs}
    write_report(document, chosen, options.output, save=not options.quick)
    return 0


def measure(workloads: list[Workload], names: list[str], *, rounds: int, quick: bool) -> Runs:
    """Run everything ``rounds`` times, the peers in a new order each time: the machine's moods hit all."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    order = random.Random(0)
    for number in range(rounds):
        for workload in workloads:
            for peer in order.sample(names, len(names)):
                if (quick and peer in peers.RAY and workload.name != "startup") or not fits(peer, workload):
                    continue
                found = run_once(peer, workload, quick=quick)
                runs[workload.name][peer].append(found)
                shown = f"{found['seconds']:8.2f} s" if "seconds" in found else found["error"]
                print(f"round {number + 1}: {workload.name:14} {peer:15} {shown}", file=sys.stderr, flush=True)
    return runs


def fits(peer: str, workload: Workload) -> bool:
    """Whether the comparison says something: one process is the floor of moving large arrays, and of nothing else."""
    return peer != "in-process" or "in-process" in workload.reach


def run_once(peer: str, workload: Workload, *, quick: bool) -> dict[str, Any]:
    """Measure in a fresh process; a peer that fails or takes too long is recorded as that."""
    count = workload.slow_count if peer in peers.RAY else workload.count
    count = max(1, count // _QUICK_SHARE) if quick else count
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.one", peer, workload.name, str(count)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=peers.environment(peer),
            timeout=_LIMIT_S,
            cwd=Path(__file__).parents[1],
        )
    except subprocess.TimeoutExpired:
        return {"error": f"more than {_LIMIT_S} s"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    found: dict[str, Any] = json.loads(last)
    return found


def medians(runs: Runs) -> dict[str, dict[str, dict[str, float] | str]]:
    """Reduce each peer's measurements of a workload to medians, or to its error."""
    reduced: dict[str, dict[str, dict[str, float] | str]] = {}
    for workload, by_peer in runs.items():
        reduced[workload] = {}
        for peer, found in by_peer.items():
            good = [run for run in found if "seconds" in run]
            reduced[workload][peer] = (
                {key: statistics.median(run[key] for run in good) for key in good[0]} if good else found[0]["error"]
            )
    return reduced


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": _processor(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
