"""Kills at random, then compares with what an undisturbed run gives.

Part 1 kills workers of one run, whenever another part of its outputs is there and some random time has passed:
one, or at times several at once. Part 2 kills the driver of a run with a checkpoint, in its first moments, on its
way or at its very end, and runs it again until it ends by itself.
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
    OUTPUTS_PER_SEED,
    ROWS_PER_SHARD,
    SHARDS_PER_SEED,
    expected,
)
from reliability.processes import MARK, kill, marked, seconds_until_gone, workers_of

_ORPHAN_LIMIT_S = 2.0
_STALL_LIMIT_S = 60.0  # without a new output: the run hangs
_MANY_AT_ONCE = 0.1  # part of the kills that take several workers
_LONGEST_PAUSE_S = 0.3
_EARLY_S = 1.5  # interpreter, imports, plan, first workers
# The killer does not ask whether a worker is setting up or which batch it is at. That one stage's set-ups, or one
# batch, are hit three times in a row is likely in hundreds of kills; ten times is not.
_MAX_ATTEMPTS = 10


@dataclass
class Verdicts:
    """What held and what did not."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def check(self, holds: object, what: str) -> None:
        """Count a statement, and print it."""
        print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failed.append(what)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it. Each initial task has 200 outputs. Some kills come too late, so fewer must hit than are tried."""

    initial_tasks: int
    worker_kills: int
    min_worker_kills: int
    driver_kills: int
    min_driver_kills: int


FULL = Size(initial_tasks=100, worker_kills=220, min_worker_kills=200, driver_kills=36, min_driver_kills=30)
SHORT = Size(initial_tasks=10, worker_kills=22, min_worker_kills=18, driver_kills=6, min_driver_kills=4)


class Place:
    """The folder of one part, and what has come of it so far."""

    def __init__(self, root: Path, mark: str, size: Size) -> None:
        self.root = root
        self.mark = mark
        self.size = size
        for name in ("files", "writes"):
            (root / name).mkdir(parents=True)

    @contextmanager
    def driver(self, *options: str) -> Iterator[psutil.Popen]:
        """A driver process; whatever is left of it is killed at the end."""
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
        """How many outputs are there."""
        return sum(file.suffix != ".partial" for file in (self.root / "files").iterdir())

    def check_files(self, verdicts: Verdicts) -> None:
        """Compare the files with what must be there."""
        files = {file.name: file.read_text() for file in (self.root / "files").iterdir()}
        due = expected(self.size.initial_tasks)
        partial = sum(name.endswith(".partial") for name in files)
        missing, extra = due.keys() - files.keys(), files.keys() - due.keys()
        wrong = [name for name in due.keys() & files.keys() if files[name] != due[name]]
        verdicts.check(
            files == due,
            f"files: {len(files):,} of {len(due):,}, {len(missing)} missing, {len(extra)} too many "
            f"({partial} partial), {len(wrong)} wrong",
        )
        found, wanted = (sum(int(text.partition(" ")[2] or 0) for text in some.values()) for some in (files, due))
        verdicts.check(found == wanted, f"their sum is {found:,}, must be {wanted:,}")
        writes = Counter(line for log in (self.root / "writes").iterdir() for line in log.read_text().split())
        again = writes.total() - len(writes)
        print(f"       {writes.total():,} writes, {again:,} of them again ({again / max(1, len(due)):.1%})")

    def errors(self) -> str:
        """The last of what the drivers said."""
        return "".join((self.root / "stderr").read_text().splitlines(keepends=True)[-30:])


def wait_for(process: psutil.Popen, happened: Callable[[], bool], limit_s: float) -> bool:
    """Wait until something has happened (True), the process has ended or the limit has passed."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if happened():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return False


# ---- part 1: workers -----------------------------------------------------------------------------------


def kill_workers(place: Place, dice: random.Random, verdicts: Verdicts) -> None:
    """One run whose workers are killed."""
    total = place.size.initial_tasks * OUTPUTS_PER_SEED
    began = time.monotonic()
    with place.driver("--max-attempts", str(_MAX_ATTEMPTS)) as driver:
        kills, stalled = _kill_while_running(place, driver, dice, total)
        ended = not stalled and wait_for(driver, lambda: driver.poll() is not None, _STALL_LIMIT_S)
        code = driver.poll()
        left = list(marked(place.mark)) if ended else []
    verdicts.check(
        ended and code == 0, f"the run ends well (exit status {code}) {'after a stall' if stalled else ''}".rstrip()
    )
    print(f"       {kills} workers killed in {time.monotonic() - began:.1f} s")
    verdicts.check(kills >= place.size.min_worker_kills, f"at least {place.size.min_worker_kills} kills")
    verdicts.check(not left, f"no process is left: {left}")
    place.check_files(verdicts)
    if ended and code == 0:
        _check_returned(place, verdicts)
    else:
        print(place.errors())


def _kill_while_running(place: Place, driver: psutil.Popen, dice: random.Random, total: int) -> tuple[int, bool]:
    """Kill workers; return how many, and whether the run came to a stand."""
    kills = 0
    marks = sorted(dice.randrange(int(total * 0.98)) for _ in range(place.size.worker_kills))
    while marks and driver.poll() is None:
        due = marks[0]
        if not wait_for(driver, lambda due=due: place.outputs() >= due, _STALL_LIMIT_S):
            return kills, driver.poll() is None
        time.sleep(dice.uniform(0, _LONGEST_PAUSE_S))
        workers = workers_of(driver)
        if not workers:
            continue  # it starts or ends
        count = min(len(workers), len(marks), dice.randrange(2, 12) if dice.random() < _MANY_AT_ONCE else 1)
        for worker in dice.sample(workers, count):
            kills += kill(worker)
            marks.pop(0)
    return kills, False


def _check_returned(place: Place, verdicts: Verdicts) -> None:
    document = json.loads((place.root / RETURNED).read_text())
    due = list(expected(place.size.initial_tasks).items())
    tasks = [(task_id, text) for task_id, text, _ in document["tasks"]]
    verdicts.check(tasks == due, f"returned: {len(tasks):,} tasks, each once, in order")
    stats = {n for *_, n in document["tasks"]}
    verdicts.check(stats == {4}, f"each has one figure a stage since its row was made: {stats}")
    _check_counts(document, place.size.initial_tasks, verdicts)
    print(f"       {document['workers']} workers started, {document['failures']} attempts or set-ups failed")


def _check_counts(document: dict[str, Any], seed_count: int, verdicts: Verdicts) -> None:
    shards = seed_count * SHARDS_PER_SEED
    rows = shards * ROWS_PER_SHARD
    kept = rows - rows // DROPPED_EVERY
    found = [(stage["tasks_in"], stage["tasks_out"]) for stage in document["stages"]]
    due = [(seed_count, shards), (shards, rows), (rows, kept), (kept, kept), (kept, kept)]
    verdicts.check(found == due, f"the report counts every task once: {found}")


# ---- part 2: drivers -----------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the kills of drivers have met."""

    kills: Counter[str] = field(default_factory=Counter)
    gone_after_s: list[float] = field(default_factory=list)
    orphans: int = 0
    broken: list[int] = field(default_factory=list)  # exit codes that neither success nor a kill explains
    ended_by_itself: int = 0


def kill_drivers(place: Place, dice: random.Random, verdicts: Verdicts) -> None:
    """A run with a checkpoint whose driver is killed and started again."""
    total = place.size.initial_tasks * OUTPUTS_PER_SEED
    tally = Tally()
    kinds = _kinds(place.size.driver_kills, dice)
    share = total / max(1, kinds.count("on its way"))
    began = time.monotonic()
    for kind in kinds:
        _kill_one_driver(place, dice, kind, share, tally)
    with place.driver("--checkpoint") as driver:
        ended = wait_for(driver, lambda: driver.poll() is not None, 10 * _STALL_LIMIT_S)
        code = driver.poll()
    count = tally.kills.total()
    print(f"       {count} drivers killed in {time.monotonic() - began:.1f} s: {dict(tally.kills)}")
    verdicts.check(count >= place.size.min_driver_kills, f"at least {place.size.min_driver_kills} kills")
    verdicts.check(ended and code == 0, f"the last run ends well (exit status {code})")
    verdicts.check(not tally.broken, f"no run ended otherwise than by a kill or well: {tally.broken}")
    slowest = max(tally.gone_after_s, default=0.0)
    verdicts.check(not tally.orphans, f"all processes gone within {_ORPHAN_LIMIT_S:g} s of each kill ({slowest:.2f} s)")
    place.check_files(verdicts)
    _check_journal(place, verdicts)
    if verdicts.failed:
        print(place.errors())


def _kinds(count: int, dice: random.Random) -> list[str]:
    """When to kill: a third in the first moments; the last two once all outputs are there."""
    early = count // 3
    kinds = ["early"] * early + ["on its way"] * (count - early - 2)
    dice.shuffle(kinds)
    return [*kinds, "at its end", "at its end"]


def _kill_one_driver(place: Place, dice: random.Random, kind: str, share: float, tally: Tally) -> None:
    total = place.size.initial_tasks * OUTPUTS_PER_SEED
    before = place.outputs()
    with place.driver("--checkpoint") as driver:
        if kind == "early":
            time.sleep(dice.uniform(0, _EARLY_S))
        else:
            due = total if kind == "at its end" else min(total, before + dice.uniform(0.2, 1.0) * share)
            came = wait_for(driver, lambda: place.outputs() >= due, 5 * _STALL_LIMIT_S)
            time.sleep(dice.uniform(0, _LONGEST_PAUSE_S) if came and kind == "on its way" else dice.uniform(0, 0.05))
        if driver.poll() is None:
            driver.kill()
        code = driver.wait()
    if code == -9:
        tally.kills[kind] += 1
    elif code == 0:
        tally.ended_by_itself += 1
    else:
        tally.broken.append(code)
    gone = seconds_until_gone(place.mark, _ORPHAN_LIMIT_S)
    if gone is None:
        tally.orphans += 1
        for process in marked(place.mark):
            kill(process)
    else:
        tally.gone_after_s.append(gone)


def _check_journal(place: Place, verdicts: Verdicts) -> None:
    history = read_history(place.root / "checkpoint")
    sources, shards = history.sources, place.size.initial_tasks * SHARDS_PER_SEED
    verdicts.check(
        (sources.done, sources.failed, sources.pending) == (shards, 0, 0),
        f"journal: {sources.done} sources done, {sources.failed} failed, {sources.pending} pending",
    )
    outcomes = Counter(run.outcome for run in history.runs)
    verdicts.check(set(outcomes) <= {INTERRUPTED, "done"}, f"its runs: {dict(outcomes)}")


# ---- both ----------------------------------------------------------------------------------------------


def main() -> int:
    """Parse, run both parts, exit 1 on any mismatch."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of it, under a minute")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the killer's dice")
    parser.add_argument("--parts", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    parser.add_argument("--keep", action="store_true", help="keep the files for a look")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    began = time.monotonic()
    verdicts = Verdicts()
    root = Path(tempfile.mkdtemp(prefix="gpuexec-chaos-"))
    print(f"chaos: seed {options.seed}, {size.initial_tasks * OUTPUTS_PER_SEED:,} outputs, in {root}", flush=True)
    try:
        for part in options.parts:
            dice = random.Random(f"{options.seed} {part}")
            print(f"part {part}: {'workers' if part == 1 else 'drivers'} are killed", flush=True)
            place = Place(root / f"part{part}", f"{root.name}-{part}", size)
            (kill_workers if part == 1 else kill_drivers)(place, dice, verdicts)
    finally:
        if not options.keep:
            shutil.rmtree(root)
    print(f"seed {options.seed}: {verdicts.passed} passed, {len(verdicts.failed)} failed", end=" ")
    print(f"in {time.monotonic() - began:.0f} s")
    return 1 if verdicts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
