"""Kills at random, and compares the results with those of an undisturbed run.

Part 1 kills workers of one run at random points of its progress, mostly one at a time and sometimes several at once.
Part 2 kills the driver of a run with a checkpoint, soon after its start, in the middle or at the very end, and runs it
again until it ends without a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gpuexec.checkpoint.history import INTERRUPTED, read_history
from reliability.chaos_driver import RETURNED
from reliability.chaos_pipeline import (
    DROPPED_EVERY,
    OUTPUTS_PER_TASK,
    ROWS_PER_SHARD,
    SHARDS_PER_TASK,
    expected,
)
from reliability.processes import MARK, kill, marked, seconds_until_gone, workers_of

_ORPHAN_LIMIT_S = 2.0
_STALL_LIMIT_S = 60.0  # a run without a new output for so long hangs
_MULTI_KILL_SHARE = 0.1  # fraction of the kills that hit several workers
_MAX_PAUSE_S = 0.3
_EARLY_S = 1.5  # start-up: interpreter, imports, plan, first workers
# Kills spare neither workers that set up nor batches that were hit before. Among hundreds of kills, three in a row that
# hit one stage's set-ups, or one batch, are likely; ten are not.
_MAX_ATTEMPTS = 10


@dataclass
class Checks:
    """The checks that passed, counted, and those that failed."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def check(self, condition: object, statement: str) -> None:
        """Count and print a statement that must be true."""
        print(f"  {'ok  ' if condition else 'FAIL'} {statement}", flush=True)
        if condition:
            self.passed += 1
        else:
            self.failed.append(statement)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a chaos run is. Each initial task has 200 outputs. Some kills come too late, so fewer must succeed."""

    initial_tasks: int
    worker_kills: int
    min_worker_kills: int
    driver_kills: int
    min_driver_kills: int


FULL = Size(initial_tasks=100, worker_kills=220, min_worker_kills=200, driver_kills=36, min_driver_kills=30)
SHORT = Size(initial_tasks=10, worker_kills=22, min_worker_kills=18, driver_kills=6, min_driver_kills=4)


class Part:
    """One part of the chaos: its folder and what it has written so far."""

    def __init__(self, root: Path, mark: str, size: Size) -> None:
        self.root = root
        self.mark = mark
        self.size = size
        for name in ("files", "writes"):
            (root / name).mkdir(parents=True)

    @contextmanager
    def driver(self, *options: str) -> Iterator[psutil.Popen]:
        """Start a driver process, and kill it at the end if it is still there."""
        with (self.root / "stderr").open("ab") as errors:
            process = psutil.Popen(
                [
                    *(sys.executable, "-m", "reliability.chaos_driver", str(self.root)),
                    *("--initial-tasks", str(self.size.initial_tasks), *options),
                ],
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def outputs(self) -> int:
        """Return the number of complete outputs."""
        return sum(file.suffix != ".partial" for file in (self.root / "files").iterdir())

    def check_files(self, checks: Checks) -> None:
        """Compare the files with those that must be there."""
        files = {file.name: file.read_text() for file in (self.root / "files").iterdir()}
        wanted = expected(self.size.initial_tasks)
        partial = sum(name.endswith(".partial") for name in files)
        missing, extra = wanted.keys() - files.keys(), files.keys() - wanted.keys()
        wrong = [name for name in wanted.keys() & files.keys() if files[name] != wanted[name]]
        checks.check(
            files == wanted,
            f"files: {len(files):,} of {len(wanted):,}, {len(missing)} missing, {len(extra)} too many "
            f"({partial} partial), {len(wrong)} wrong",
        )
        total, wanted_total = (sum(int(text.partition(" ")[2] or 0) for text in d.values()) for d in (files, wanted))
        checks.check(total == wanted_total, f"the sum of their scores is {total:,}, must be {wanted_total:,}")
        writes = Counter(line for log in (self.root / "writes").iterdir() for line in log.read_text().split())
        repeated = writes.total() - len(writes)
        print(f"       {writes.total():,} writes, {repeated:,} of them repeated ({repeated / max(1, len(wanted)):.1%})")

    def errors(self) -> str:
        """Return the last lines that the drivers printed."""
        return "".join((self.root / "stderr").read_text().splitlines(keepends=True)[-30:])


def wait_for(process: psutil.Popen, condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait until the condition is true; return False if the process ends or the limit passes before."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return False


# ---- part 1: workers -----------------------------------------------------------------------------------


def kill_workers(part: Part, rng: random.Random, checks: Checks) -> None:
    """Kill workers of one run, and check its results."""
    total = part.size.initial_tasks * OUTPUTS_PER_TASK
    started_at = time.monotonic()
    with part.driver("--max-attempts", str(_MAX_ATTEMPTS)) as driver:
        kills, stalled = _kill_while_running(part, driver, rng, total)
        ended = not stalled and wait_for(driver, lambda: driver.poll() is not None, _STALL_LIMIT_S)
        code = driver.poll()
        remaining = list(marked(part.mark)) if ended else []
    checks.check(
        ended and code == 0, f"the run succeeds (exit status {code}) {'after a stall' if stalled else ''}".rstrip()
    )
    print(f"       {kills} workers killed in {time.monotonic() - started_at:.1f} s")
    checks.check(kills >= part.size.min_worker_kills, f"at least {part.size.min_worker_kills} kills")
    checks.check(not remaining, f"no process is left: {remaining}")
    part.check_files(checks)
    if ended and code == 0:
        _check_returned(part, checks)
    else:
        print(part.errors())


def _kill_while_running(part: Part, driver: psutil.Popen, rng: random.Random, total: int) -> tuple[int, bool]:
    """Kill workers; return how many, and whether the run stalled."""
    kills = 0
    thresholds = sorted(rng.randrange(int(total * 0.98)) for _ in range(part.size.worker_kills))  # in outputs
    while thresholds and driver.poll() is None:
        next_kill = thresholds[0]
        if not wait_for(driver, lambda next_kill=next_kill: part.outputs() >= next_kill, _STALL_LIMIT_S):
            return kills, driver.poll() is None
        time.sleep(rng.uniform(0, _MAX_PAUSE_S))
        workers = workers_of(driver)
        if not workers:
            continue  # the run is starting or ending
        count = min(len(workers), len(thresholds), rng.randrange(2, 12) if rng.random() < _MULTI_KILL_SHARE else 1)
        for worker in rng.sample(workers, count):
            kills += kill(worker)
            thresholds.pop(0)
    return kills, False


def _check_returned(part: Part, checks: Checks) -> None:
    document = json.loads((part.root / RETURNED).read_text())
    wanted = list(expected(part.size.initial_tasks).items())
    tasks = [(task_id, text) for task_id, text, _ in document["tasks"]]
    checks.check(tasks == wanted, f"returned: {len(tasks):,} tasks, each once, in order")
    stats = {n for *_, n in document["tasks"]}
    checks.check(stats == {4}, f"each has one StagePerfStats per stage since its row was made: {stats}")
    _check_counts(document, part.size.initial_tasks, checks)
    print(f"       {document['workers']} workers started, {document['failures']} attempts or set-ups failed")


def _check_counts(document: dict[str, Any], initial_tasks: int, checks: Checks) -> None:
    shards = initial_tasks * SHARDS_PER_TASK
    rows = shards * ROWS_PER_SHARD
    kept = rows - rows // DROPPED_EVERY
    counts = [(stage["tasks_in"], stage["tasks_out"]) for stage in document["stages"]]
    wanted = [(initial_tasks, shards), (shards, rows), (rows, kept), (kept, kept), (kept, kept)]
    checks.check(counts == wanted, f"the report counts every task once: {counts}")


# ---- part 2: drivers -----------------------------------------------------------------------------------


@dataclass
class Tally:
    """The kills of drivers, and what followed."""

    kills: Counter[str] = field(default_factory=Counter)
    gone_after_s: list[float] = field(default_factory=list)
    orphans: int = 0
    broken: list[int] = field(default_factory=list)  # exit codes other than success and the kill
    succeeded: int = 0


def kill_drivers(part: Part, rng: random.Random, checks: Checks) -> None:
    """Kill the driver of a run with a checkpoint and start it again, several times; then check its results."""
    total = part.size.initial_tasks * OUTPUTS_PER_TASK
    tally = Tally()
    kinds = _kinds(part.size.driver_kills, rng)
    share = total / max(1, kinds.count("middle"))
    started_at = time.monotonic()
    for kind in kinds:
        _kill_one_driver(part, rng, kind, share, tally)
    with part.driver("--checkpoint") as driver:
        ended = wait_for(driver, lambda: driver.poll() is not None, 10 * _STALL_LIMIT_S)
        code = driver.poll()
    count = tally.kills.total()
    print(f"       {count} drivers killed in {time.monotonic() - started_at:.1f} s: {dict(tally.kills)}")
    checks.check(count >= part.size.min_driver_kills, f"at least {part.size.min_driver_kills} kills")
    checks.check(ended and code == 0, f"the last run succeeds (exit status {code})")
    checks.check(not tally.broken, f"no run failed on its own: {tally.broken}")
    slowest = max(tally.gone_after_s, default=0.0)
    gone = f"all processes are gone within {_ORPHAN_LIMIT_S:g} s of each kill (slowest: {slowest:.2f} s)"
    checks.check(not tally.orphans, gone)
    part.check_files(checks)
    _check_journal(part, checks)
    if checks.failed:
        print(part.errors())


def _kinds(count: int, rng: random.Random) -> list[str]:
    """Return when to kill: a third early, the last two when all outputs are there, the others in between."""
    early = count // 3
    kinds = ["early"] * early + ["middle"] * (count - early - 2)
    rng.shuffle(kinds)
    return [*kinds, "end", "end"]


def _kill_one_driver(part: Part, rng: random.Random, kind: str, share: float, tally: Tally) -> None:
    total = part.size.initial_tasks * OUTPUTS_PER_TASK
    before = part.outputs()
    with part.driver("--checkpoint") as driver:
        if kind == "early":
            time.sleep(rng.uniform(0, _EARLY_S))
        else:
            wanted = total if kind == "end" else min(total, before + rng.uniform(0.2, 1.0) * share)
            reached = wait_for(driver, lambda: part.outputs() >= wanted, 5 * _STALL_LIMIT_S)
            time.sleep(rng.uniform(0, _MAX_PAUSE_S) if reached and kind == "middle" else rng.uniform(0, 0.05))
        if driver.poll() is None:
            driver.kill()
        code = driver.wait()
    if code == -9:
        tally.kills[kind] += 1
    elif code == 0:
        tally.succeeded += 1
    else:
        tally.broken.append(code)
    gone_after_s = seconds_until_gone(part.mark, _ORPHAN_LIMIT_S)
    if gone_after_s is None:
        tally.orphans += 1
        for process in marked(part.mark):
            kill(process)
    else:
        tally.gone_after_s.append(gone_after_s)


def _check_journal(part: Part, checks: Checks) -> None:
    history = read_history(part.root / "checkpoint")
    sources, shards = history.sources, part.size.initial_tasks * SHARDS_PER_TASK
    checks.check(
        (sources.done, sources.failed, sources.pending) == (shards, 0, 0),
        f"journal: {sources.done} sources done, {sources.failed} failed, {sources.pending} pending",
    )
    outcomes = Counter(run.outcome for run in history.runs)
    checks.check(set(outcomes) <= {INTERRUPTED, "done"}, f"its runs' outcomes: {dict(outcomes)}")


# ---- both ----------------------------------------------------------------------------------------------


def main() -> int:
    """Parse the options and run both parts; return 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the kills; takes less than a minute")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="seed of the random kills")
    parser.add_argument("--parts", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    parser.add_argument("--keep", action="store_true", help="keep the files")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    started_at = time.monotonic()
    checks = Checks()
    root = Path(tempfile.mkdtemp(prefix="gpuexec-chaos-"))
    print(f"chaos: seed {options.seed}, {size.initial_tasks * OUTPUTS_PER_TASK:,} outputs, in {root}", flush=True)
    try:
        for number in options.parts:
            rng = random.Random(f"{options.seed} {number}")
            print(f"part {number}: killing {'workers' if number == 1 else 'drivers'}", flush=True)
            part = Part(root / f"part{number}", f"{root.name}-{number}", size)
            (kill_workers if number == 1 else kill_drivers)(part, rng, checks)
    finally:
        if not options.keep:
            shutil.rmtree(root)
    print(f"seed {options.seed}: {checks.passed} passed, {len(checks.failed)} failed", end=" ")
    print(f"in {time.monotonic() - started_at:.0f} s")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
