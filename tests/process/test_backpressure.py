"""Streaming: stages overlap, queues are bounded, and tasks of any size pass."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest

from gpuexec import ConfigurationError, LocalExecutor, Pipeline, ProcessingStage, Resources, events
from gpuexec.executors import local
from tests.process.stages import Item, items

MIB = 2**20


class Waits(ProcessingStage):
    """Source: after its first task, waits until a later stage has written a file."""

    name = "waits"
    resources = Resources(cpus=0.25)

    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self, task: Item) -> Item:
        if task.data > 0:
            while not self.path.exists():
                os.sched_yield()
        return task


class Touches(ProcessingStage):
    name = "touches"
    resources = Resources(cpus=0.25)

    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self, task: Item) -> Item:
        self.path.touch()
        return task


def test_the_second_stage_works_while_the_first_still_produces(tmp_path: Path):
    path = tmp_path / "reached"
    stages = [Waits(path).with_(num_workers=1), Touches(path)]
    out = Pipeline("p", stages=stages).run(LocalExecutor(show_progress=False), initial_tasks=items(0, 1, 2))
    assert [task.data for task in out] == [0, 1, 2]


class Fast(ProcessingStage):
    """Makes one task of 1 MB for each it gets."""

    name = "fast"
    resources = Resources(cpus=0.25)

    def process(self, task: Item) -> Item:
        task.data = np.full(1_000_000, task.data % 251, np.uint8)
        return task


class Slow(ProcessingStage):
    """Takes long enough over each for the fast stage to run far ahead, if it were let."""

    name = "slow"
    resources = Resources(cpus=0.25)

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        checksum = sum(int(task.data.sum()) for _ in range(4))
        return Item("sum", checksum // 4)


class Gauge:
    """Reads what the run holds: queues, and the memory of the driver and all its workers."""

    def __init__(self) -> None:
        self.max_queued = 0
        self.max_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def on_event(self, event: events.RunEvent) -> None:
        if isinstance(event, events.Gauged):
            self.max_queued = max(self.max_queued, *(stage.queued for stage in event.stages))

    def _sample(self) -> None:
        while not self._stop.wait(0.05):
            self.max_bytes = max(self.max_bytes, shared_and_private_bytes())


def shared_and_private_bytes() -> int:
    """Proportional memory of this process and its children: a shared page counts once in all."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


@pytest.mark.timeout(240)
def test_a_slow_stage_holds_a_fast_one_back(monkeypatch):
    count, bound = 10_000, 64 * MIB
    executor = LocalExecutor(show_progress=False, queue_bytes=bound)
    with Gauge() as gauge:
        monkeypatch.setattr(local, "progress_for", lambda _: ([gauge], 0.02))
        before = shared_and_private_bytes()
        out = Pipeline("p", stages=[Fast(), Slow()]).run(executor, initial_tasks=items(*range(count)))
    assert [task.data for task in out] == [i % 251 * 1_000_000 for i in range(count)]
    assert 32 <= gauge.max_queued <= count // 2, "the queue before the slow stage is full, not endless"
    # The queue's bound, the batches in hand on both sides, and the processes themselves: far below 10 GB.
    assert gauge.max_bytes - before < bound + 512 * MIB


def test_the_queue_is_bounded_by_count_too(monkeypatch):
    executor = LocalExecutor(show_progress=False, queue_tasks=10)
    gauge = Gauge()
    monkeypatch.setattr(local, "progress_for", lambda _: ([gauge], 0.0))
    Pipeline("p", stages=[Fast().with_(num_workers=1), Slow()]).run(executor, initial_tasks=items(*range(300)))
    max_in_flight = 128  # what one worker may return after the queue has filled
    assert 0 < gauge.max_queued <= 10 + max_in_flight


FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import Apply, items, spin
stages = [Apply(np.copy, f"pass{i}").with_(num_workers=1) for i in range(5)]
tasks = items(*(np.full(100_000, i % 256, np.uint8) for i in range(600)))
out = Pipeline("p", stages=[*stages, Apply(spin, "slow").with_(num_workers=1)]).run(
    LocalExecutor(show_progress=False), initial_tasks=tasks
)
print([task.data for task in out] == [i % 256 for i in range(600)])
"""


def test_full_queues_leave_descriptors_for_the_rest():
    """Six queues of large tasks before a slow stage, with few descriptors for all of them."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS], check=False, cwd=root, capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "True\n", done.stderr[-2000:]


class MakesMany(ProcessingStage):
    """One batch, far more tasks than a queue or the table of open files holds."""

    name = "makes_many"

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size

    def process(self, task: Item) -> list[Item]:
        return [Item("many", np.full(self.size, i % 256, np.uint8)) for i in range(self.count)]


class Sums(ProcessingStage):
    name = "sums"
    resources = Resources(cpus=0.5)

    def process(self, task: Item) -> Item:
        return Item("sum", int(task.data.sum()))


def test_a_batch_that_fans_out_beyond_every_bound():
    executor = LocalExecutor(show_progress=False, queue_tasks=8, queue_bytes=MIB)
    out = Pipeline("p", stages=[MakesMany(2000, 100_000), Sums()]).run(executor, initial_tasks=items(0))
    assert [task.data for task in out] == [i % 256 * 100_000 for i in range(2000)]


def test_results_may_be_more_than_there_are_descriptors():
    executor = LocalExecutor(show_progress=False)
    out = Pipeline("p", stages=[MakesMany(3000, 70_000)]).run(executor, initial_tasks=items(0))
    assert [int(task.data[0]) for task in out] == [i % 256 for i in range(3000)]


class Huge(ProcessingStage):
    """A task of 3 GB: more than 2**31 bytes, which some transports cannot carry."""

    name = "huge"

    def process(self, task: Item) -> Item:
        task.data = np.zeros(3_000_000_000, np.uint8)
        task.data[-1] = 7
        return task


class Ends(ProcessingStage):
    name = "ends"

    def process(self, task: Item) -> Item:
        return Item("ends", (len(task.data), int(task.data[-1])))


@pytest.mark.skipif(psutil.virtual_memory().available < 10e9, reason="needs 10 GB of memory")
def test_a_task_of_three_gigabytes():
    executor = LocalExecutor(show_progress=False)
    (task,) = Pipeline("p", stages=[Huge(), Ends()]).run(executor, initial_tasks=items(0))
    assert task.data == (3_000_000_000, 7)
    assert task._stage_perf[-1].custom_metrics["gpuexec.input_bytes"] > 3e9


def test_no_stages_and_no_tasks():
    with pytest.raises(ConfigurationError, match="there are no stages to run"):
        LocalExecutor().execute([])
    with pytest.raises(ConfigurationError, match="has no stages"):
        Pipeline("p").run(LocalExecutor())


def test_an_option_that_does_not_exist():
    with pytest.raises(ConfigurationError, match="did you mean 'queue_bytes'"):
        LocalExecutor(queue_byte=1)
