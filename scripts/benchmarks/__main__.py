"""Runs every peer on every workload in interleaved rounds, and writes medians, ratios, a table and a plot to docs/."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import peers, planning, streaming, usage
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
    parser.add_argument(
        "--workloads", nargs="+", metavar="WORKLOAD", choices=[*(w.name for w in WORKLOADS), *planning.CASES, STREAMING]
    )
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
    load_average = os.getloadavg()[1]  # of the five minutes before: what others make this machine do
    runs = measure(chosen, names, rounds=1 if options.quick else options.rounds, quick=options.quick)
    taken = {"at": datetime.now(UTC).isoformat(timespec="minutes"), "load_average": load_average, "machine": machine()}
    rows = {name: {"taken": taken, "medians": medians(by_peer), "runs": by_peer} for name, by_peer in runs.items()}
    write_report(rows, options.output, save=not options.quick)
    return 0


def measure(workloads: list[Workload], names: list[str], *, rounds: int, quick: bool) -> Runs:
    """Run everything ``rounds`` times, with the peers in a new order each time, so that slow moments of the machine
    do not always hit the same one. Where memory is a goal, run each peer once more for it."""
    usage.adopt_orphans()
    runs: Runs = defaultdict(lambda: defaultdict(list))
    order = random.Random(0)
    for number in range(rounds):
        for workload in workloads:
            if number >= workload.most_rounds:
                continue
            for peer in order.sample(names, len(names)):
                if (quick and peer in peers.RAY and workload.name != "startup") or not fits(peer, workload):
                    continue
                run = run_once(peer, workload, quick=quick)
                if workload.memory and not number and "seconds" in run:
                    run |= run_once(peer, workload, quick=quick, memory=True)
                runs[workload.name][peer].append(run)
                outcome = f"{run['seconds']:8.2f} s" if "seconds" in run else run["error"]
                print(f"round {number + 1}: {workload.name:22} {peer:15} {outcome}", file=sys.stderr, flush=True)
    return runs


def fits(peer: str, workload: Workload) -> bool:
    """Return whether a comparison makes sense."""
    if peer in peers.RAY:
        return workload.slow_count is not None
    return peer not in peers.OCCASIONAL or peer in workload.reach


def run_once(peer: str, workload: Workload, *, quick: bool, memory: bool = False) -> dict[str, Any]:
    """Measure in a fresh process, either times or ``memory``. If the peer fails or takes too long, return the error."""
    count = workload.slow_count or 1 if peer in peers.RAY else workload.count
    count = max(1, count // _QUICK_DIVISOR) if quick else count
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.one", peer, workload.name, str(count)]
    env = peers.environment(peer, workload.library)
    cpu_s = usage.children_cpu_s()
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=Path(__file__).parents[1]
        ) as process,
        usage.MemorySampler(process.pid) if memory else contextlib.nullcontext() as sampler,
    ):
        try:
            output, errors = process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"error": f"more than {_LIMIT_S} s"}
    usage.reap_orphans()
    last = (output.strip().splitlines() or [""])[-1]
    if process.returncode or not last.startswith("{"):
        return {"error": (errors.strip().splitlines() or ["no output"])[-1][:200]}
    if sampler is not None:
        return {"workers_pss_mib": sampler.workers_pss_mib, "pss_mib": sampler.pss_mib}
    run: dict[str, Any] = json.loads(last)
    run["cpu_s"] = usage.children_cpu_s() - cpu_s - run.pop("cpu_before_s")
    return run


def medians(by_peer: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float] | str]:
    """Reduce each peer's measurements of a workload to medians, or to its error."""
    reduced: dict[str, dict[str, float] | str] = {}
    for peer, runs in by_peer.items():
        good = [run for run in runs if "seconds" in run]
        reduced[peer] = (
            {key: statistics.median(run[key] for run in good if key in run) for key in good[0]}
            if good
            else runs[0]["error"]
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
