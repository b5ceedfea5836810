"""One run that goes on and on: the driver's memory, descriptors and threads must stay what they are.

A sample every 10 s; a line a minute; a straight line is fitted to what follows the first fifth.
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
_LINE_EVERY = 6  # samples
_KILL_EVERY_S = 20.0
_WARM_UP = 0.2  # of the samples
_MAX_GROWTH_MIB_H = 10.0  # by the fitted line; a leak of 100 bytes a task would be some 60 MiB an hour
_MAX_GROWTH_COUNT_H = 4.0  # descriptors, threads


@dataclass(frozen=True, slots=True)
class Sample:
    """The driver at one moment.

    ``segments``: descriptors of shared memory, in which large tasks wait; the queues bound them. ``descriptors``: all
    others. ``objects``: what its garbage collector knows of.
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
    """Samples this process and kills one of its workers now and then."""

    def __init__(self, out: Path, seed: int) -> None:
        super().__init__(name="soak-watcher", daemon=True)
        self.samples: list[Sample] = []
        self.tasks = self.kills = 0
        self.ended = threading.Event()
        self._out = out
        self._dice = random.Random(seed)

    def run(self) -> None:
        """Until told that it is over."""
        began = time.monotonic()
        driver = psutil.Process()
        next_kill = began + _KILL_EVERY_S
        with self._out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(field.name for field in fields(Sample))
            while not self.ended.wait(max(0.0, began + (len(self.samples) + 1) * _SAMPLE_EVERY_S - time.monotonic())):
                self._take(driver, time.monotonic() - began)
                table.writerow(astuple(self.samples[-1]))
                file.flush()
                if time.monotonic() >= next_kill:
                    next_kill += _KILL_EVERY_S * self._dice.uniform(0.5, 1.5)
                    self._kill_one(driver)

    def _take(self, driver: psutil.Process, seconds: float) -> None:
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
        if len(self.samples) % _LINE_EVERY == 1:
            print("  ".join(f"{name} {value}" for name, value in asdict(sample).items()), flush=True)

    def _kill_one(self, driver: psutil.Process) -> None:
        workers = workers_of(driver)
        if workers and kill(self._dice.choice(workers)):
            self.kills += 1


def _descriptors() -> tuple[int, int]:
    """How many of this process's descriptors are task segments, and how many are not."""
    places = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            places.append(str(descriptor.readlink()))
    segments = sum(place.startswith("/memfd:gpuexec") for place in places)
    return segments, len(places) - segments


def slope_per_hour(samples: Sequence[Sample], name: str) -> float:
    """The fitted growth of one figure."""
    hours = [sample.seconds / 3600 for sample in samples]
    return float(np.polyfit(hours, [getattr(sample, name) for sample in samples], 1)[0])


def verdict(samples: Sequence[Sample]) -> bool:
    """Print what grew; whether all is flat."""
    steady = samples[int(len(samples) * _WARM_UP) :]
    flat = True
    print("\nafter the first fifth   least     most   first   last   fitted growth an hour")
    for name, most in (
        ("rss_mib", _MAX_GROWTH_MIB_H),
        ("descriptors", _MAX_GROWTH_COUNT_H),
        ("threads", _MAX_GROWTH_COUNT_H),
        ("children", _MAX_GROWTH_COUNT_H),
    ):
        values = [getattr(sample, name) for sample in steady]
        growth = slope_per_hour(steady, name)
        passed = growth <= most
        flat = flat and passed
        print(
            f"{name:20} {min(values):8} {max(values):8} {values[0]:8} {values[-1]:8} {growth:+9.2f}  "
            f"{'flat' if passed else 'GROWS'} (limit {most:+g})"
        )
    for name in ("segments", "objects"):  # as many as tasks happen to wait
        values = [getattr(sample, name) for sample in steady]
        growth = slope_per_hour(steady, name)
        print(f"{name:20} {min(values):8} {max(values):8} {values[0]:8} {values[-1]:8} {growth:+9.0f}")
    return flat


def soak(minutes: float, seed: int, out: Path) -> bool:
    """Run and judge."""
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
    print(f"\n{count} tasks, each {'once' if complete else 'NOT once: their numbers do not add up'}")
    print(f"{watcher.kills} workers killed, {len(report.workers)} started, {len(report.failures)} attempts failed")
    print(f"notes of the report: {len(report.notes)}")
    return verdict(watcher.samples) and complete


def main() -> int:
    """Parse, soak, exit 1 if anything grows or is lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--csv", type=Path, default=Path(tempfile.gettempdir()) / "gpuexec-soak.csv")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: a line needs some samples, so at least 1")
    from loguru import logger

    logger.remove()  # what is tried again is told by warnings: thousands here
    print(f"seed {options.seed}, process {os.getpid()}, samples in {options.csv}", flush=True)
    passed = soak(options.minutes, options.seed, options.csv)
    print("soak: 1 passed, 0 failed" if passed else "soak: 0 passed, 1 failed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
