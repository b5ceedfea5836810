"""Runs one stream for a long time: the driver's memory, descriptors and threads must not grow.

It takes a sample every 10 s and prints one per minute. A line is fitted to the samples after the first fifth.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import psutil

from gpuexec import LocalExecutor
from reliability.processes import kill, workers_of
from reliability.soak_pipeline import MIB, Check, Fill, Flaky, endless

_SAMPLE_EVERY_S = 10.0
_PRINT_EVERY = 6  # samples
_KILL_EVERY_S = 20.0
_WARM_UP = 0.2  # fraction of the samples
_MAX_GROWTH_MIB_H = 10.0  # by the fitted line; a leak of 100 bytes per task would be about 60 MiB per hour
_MAX_GROWTH_COUNT_H = 4.0  # descriptors, threads


@dataclass(frozen=True, slots=True)
class Sample:
    """The driver at one moment.

    ``segments``: descriptors of shared memory that holds large tasks; the queues limit their number. ``descriptors``:
    all others. ``objects``: those that the garbage collector tracks.
    """

    seconds: float
    tasks: int
    rss_mib: float
    descriptors: int
    segments: int
    threads: int
    children: int
    objects: int
    kills: int


class Watcher(threading.Thread):
    """Samples this process, and kills one of its workers from time to time."""

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(name="soak-watcher", daemon=True)
        self.samples: list[Sample] = []
        self.tasks = self.kills = 0
        self.ended = threading.Event()
        self._out = out
        self._rng = random.Random(seed)

    def run(self) -> None:
        """Sample until ``ended`` is set."""
        started_at = time.monotonic()
        driver = psutil.Process()
        next_kill = started_at + _KILL_EVERY_S
        with self._out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(field.name for field in fields(Sample))
            next_sample = started_at + _SAMPLE_EVERY_S
            while not self.ended.wait(max(0.0, next_sample - time.monotonic())):
                next_sample += _SAMPLE_EVERY_S
                self._take_sample(driver, time.monotonic() - started_at)
                table.writerow(astuple(self.samples[-1]))
                file.flush()
                if time.monotonic() >= next_kill:
                    next_kill += _KILL_EVERY_S * self._rng.uniform(0.5, 1.5)
                    self._kill_one(driver)

    def _take_sample(self, driver: psutil.Process, seconds: float) -> None:
        segments, descriptors = _descriptors()
        with driver.oneshot():
            sample = Sample(
                round(seconds, 1),
                self.tasks,
                round(driver.memory_info().rss / MIB, 2),
                descriptors,
                segments,
                driver.num_threads(),
                len(driver.children()),
                len(gc.get_objects()),
                self.kills,
            )
        self.samples.append(sample)
        if len(self.samples) % _PRINT_EVERY == 1:
            print("  ".join(f"{name} {value}" for name, value in asdict(sample).items()), flush=True)

    def _kill_one(self, driver: psutil.Process) -> None:
        workers = workers_of(driver)
        if workers and kill(self._rng.choice(workers)):
            self.kills += 1


def _descriptors() -> tuple[int, int]:
    """Return the number of descriptors of this process that are task segments, and of all others."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            targets.append(str(descriptor.readlink()))
    segments = sum(target.startswith("/memfd:gpuexec") for target in targets)
    return segments, len(targets) - segments


def slope_per_hour(samples: Sequence[Sample], name: str) -> float:
    """Return the growth of one value by the fitted line."""
    hours = [sample.seconds / 3600 for sample in samples]
    return float(np.polyfit(hours, [getattr(sample, name) for sample in samples], 1)[0])


def is_flat(samples: Sequence[Sample]) -> bool:
    """Print how much each value grew; return whether none exceeds its limit."""
    steady = samples[int(len(samples) * _WARM_UP) :]
    flat = True
    print("\nafter the first fifth     min      max    first     last   fitted growth per hour")
    for name, limit in (
        ("rss_mib", _MAX_GROWTH_MIB_H),
        ("descriptors", _MAX_GROWTH_COUNT_H),
        ("threads", _MAX_GROWTH_COUNT_H),
        ("children", _MAX_GROWTH_COUNT_H),
    ):
        values = [getattr(sample, name) for sample in steady]
        growth = slope_per_hour(steady, name)
        passed = growth <= limit
        flat = flat and passed
        print(
            f"{name:20} {min(values):8} {max(values):8} {values[0]:8} {values[-1]:8} {growth:+9.2f}  "
            f"{'flat' if passed else 'GROWS'} (limit {limit:+g})"
        )
    for name in ("segments", "objects"):  # depends on how many tasks wait, so without a limit
        values = [getattr(sample, name) for sample in steady]
        growth = slope_per_hour(steady, name)
        print(f"{name:20} {min(values):8} {max(values):8} {values[0]:8} {values[-1]:8} {growth:+9.0f}")
    return flat


def soak(minutes: float, seed: int, out: Path) -> bool:
    """Run; return whether every task came once and nothing grew."""
    watcher = Watcher(out, seed)
    numbers = count = 0
    with tempfile.TemporaryDirectory(prefix="gpuexec-soak-") as checkpoint:
        executor = LocalExecutor(
            show_progress=False,
            retry_on=ConnectionError,
            max_attempts=10,
            max_batches_per_worker=5000,
            queue_tasks=256,
            checkpoint=checkpoint,
            capsules=False,
            log_level="ERROR",
        )
        watcher.start()
        try:
            for task in executor.execute_iter([Fill(), Flaky(), Check()], endless(time.monotonic() + 60 * minutes)):
                count += 1
                numbers += task.number
                watcher.tasks = count
        finally:
            watcher.ended.set()
            watcher.join()
    complete = numbers == count * (count - 1) // 2
    report = executor.last_report
    assert report is not None
    print(f"\n{count} tasks, {'each once' if complete else 'NOT each once: their numbers do not add up'}")
    print(f"{watcher.kills} workers killed, {len(report.workers)} started, {len(report.failures)} attempts failed")
    print(f"notes of the report: {len(report.notes)}")
    return is_flat(watcher.samples) and complete


def main() -> int:
    """Parse the options and soak; return 1 if anything grows or is lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--csv", type=Path, default=Path(tempfile.gettempdir()) / "gpuexec-soak.csv")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes must be at least 1: fitting a line needs some samples")
    from loguru import logger

    logger.remove()  # retries log warnings, thousands of them here
    print(f"seed {options.seed}, process {os.getpid()}, samples in {options.csv}", flush=True)
    passed = soak(options.minutes, options.seed, options.csv)
    print("soak: 1 passed, 0 failed" if passed else "soak: 0 passed, 1 failed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
