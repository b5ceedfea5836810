"""Runs every peer on every workload in interleaved rounds, and writes medians, ratios, a table and a plot to docs/."""

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
_QUICK_DIVISOR = 5  # --quick does a fifth of the work

Runs = dict[str, dict[str, list[dict[str, Any]]]]  # workload → peer → measurements


def main() -> int:
    """Measure, and print or save the report."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of smaller workloads, under 5 minutes")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--without-ray", action="store_true", help="leave out NeMo Curator's own backends")
    parser.add_argument("--peers", nargs="+", choices=list(peers.PEERS), default=list(peers.PEERS))
    parser.add_argument("--workloads", nargs="+", choices=[*(w.name for w in WORKLOADS), *planning.CASES, STREAMING])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "docs", help="folder for the report")
    options = parser.parse_args()
    chosen = [w for w in WORKLOADS if not options.workloads or w.name in options.workloads]
    names = [p for p in options.peers if not (options.without_ray and p in peers.RAY)]
    cases = [case for case in planning.CASES if not options.workloads or case in options.workloads]
    planning.report(cases, options.rounds, options.output, quick=options.quick)
    if not options.workloads or STREAMING in options.workloads:
        measured = streaming.measure(streaming.QUICK_COUNTS if options.quick else streaming.COUNTS)
        show_section("streaming", streaming.table(measured), options.output, save=not options.quick)
    if not chosen:
        return 0
    runs = measure(chosen, names, rounds=1 if options.quick else options.rounds, quick=options.quick)
    document = {"machine": machine(), "quick": options.quick, "medians": medians(runs), "runs": runs}
    write_report(document, chosen, options.output, save=not options.quick)
    return 0


def measure(workloads: list[Workload], names: list[str], *, rounds: int, quick: bool) -> Runs:
    """Run everything ``rounds`` times, with the peers in a new order each time, so that slow moments of the machine
    do not always hit the same one."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    order = random.Random(0)
    for number in range(rounds):
        for workload in workloads:
            for peer in order.sample(names, len(names)):
                if (quick and peer in peers.RAY and workload.name != "startup") or not fits(peer, workload):
                    continue
                run = run_once(peer, workload, quick=quick)
                runs[workload.name][peer].append(run)
                outcome = f"{run['seconds']:8.2f} s" if "seconds" in run else run["error"]
                print(f"round {number + 1}: {workload.name:14} {peer:15} {outcome}", file=sys.stderr, flush=True)
    return runs


def fits(peer: str, workload: Workload) -> bool:
    """Return whether a comparison makes sense. ``in-process`` is a lower bound for moving large arrays only."""
    return peer != "in-process" or "in-process" in workload.reach


def run_once(peer: str, workload: Workload, *, quick: bool) -> dict[str, Any]:
    """Measure in a fresh process. If the peer fails or takes too long, return the error instead."""
    count = workload.slow_count if peer in peers.RAY else workload.count
    count = max(1, count // _QUICK_DIVISOR) if quick else count
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
    run: dict[str, Any] = json.loads(last)
    return run


def medians(runs: Runs) -> dict[str, dict[str, dict[str, float] | str]]:
    """Reduce each peer's measurements of a workload to medians, or to its error."""
    reduced: dict[str, dict[str, dict[str, float] | str]] = {}
    for workload, by_peer in runs.items():
        reduced[workload] = {}
        for peer, peer_runs in by_peer.items():
            good = [run for run in peer_runs if "seconds" in run]
            reduced[workload][peer] = (
                {key: statistics.median(run[key] for run in good) for key in good[0]} if good else peer_runs[0]["error"]
            )
    return reduced


def machine() -> dict[str, Any]:
    """Describe the machine that was measured."""
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
