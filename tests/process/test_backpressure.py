"""Streaming: stages overlap, queues are bounded, and tasks of any size pass."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

import psutil
import pytest

from gpuexec import ConfigurationError, LocalExecutor, Pipeline
from tests.process.running import run_local, run_python
from tests.process.stages import items
from tests.process.stages.workloads import MIB, Fast, Huge, LengthAndLast, MakesMany, Slow, Sums, Touches, Waits


def test_the_second_stage_works_while_the_first_still_produces(tmp_path: Path):
    path = tmp_path / "reached"
    assert run_local([Waits(path), Touches(path)], items(0, 1, 2)).data == [0, 1, 2]


class MemoryGauge:
    """Measures the memory of the driver and all its workers while it is entered."""

    def __init__(self) -> None:
        self.max_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.05):
            self.max_bytes = max(self.max_bytes, shared_and_private_bytes())


def shared_and_private_bytes() -> int:
    """Return the proportional memory of this process and its children: a shared page counts once in all."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def test_a_slow_stage_holds_a_fast_one_back(tmp_path: Path):
    count, bound = 1_000, 32 * MIB
    stages = [Fast(tmp_path / "made"), Slow(tmp_path / "made")]
    before = shared_and_private_bytes()
    with MemoryGauge() as gauge:
        ran = run_local(stages, items(*range(count)), queue_bytes=bound)
    assert [checksum for checksum, _ in ran.data] == [i % 251 * 1_000_000 for i in range(count)]
    assert 32 <= max(ahead for _, ahead in ran.data) <= count // 2, "the queue between the stages is full, not endless"
    # The queue's bound, the batches in flight on both sides, and the processes themselves: far below 1 GB.
    assert gauge.max_bytes - before < bound + 400 * MIB


def test_the_queue_is_bounded_by_count_too(tmp_path: Path):
    stages = [Fast(tmp_path / "made").with_(num_workers=1), Slow(tmp_path / "made")]
    ran = run_local(stages, items(*range(1000)), queue_tasks=10)
    max_in_flight = 128  # of each worker: made but not queued yet, and taken from the queue but not processed
    assert 10 <= max(ahead for _, ahead in ran.data) <= 10 + 2 * max_in_flight


FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import Apply, items, spin
stages = [Apply(np.copy, f"pass{i}").with_(num_workers=1) for i in range(5)]
tasks = items(*(np.full(100_000, i % 256, np.uint8) for i in range(400)))
out = Pipeline("p", stages=[*stages, Apply(spin, "slow").with_(num_workers=1)]).run(
    LocalExecutor(show_progress=False), initial_tasks=tasks
)
print([task.data for task in out] == [i % 256 for i in range(400)])
"""


@pytest.mark.exhaustive
def test_full_queues_leave_descriptors_for_the_rest():
    """Six queues of large tasks before a slow stage, with few descriptors for all of them."""
    done = run_python("-c", FEW_DESCRIPTORS)
    assert done.stdout == "True\n", done.stderr[-2000:]


def test_a_batch_that_fans_out_beyond_every_bound():
    ran = run_local([MakesMany(700, 100_000), Sums()], items(0), queue_tasks=8, queue_bytes=MIB)
    assert ran.data == [i % 256 * 100_000 for i in range(700)]


def test_results_may_be_more_than_there_are_descriptors():
    ran = run_local([MakesMany(3000, 70_000)], items(0))
    assert [int(array[0]) for array in ran.data] == [i % 256 for i in range(3000)]


@pytest.mark.skipif(psutil.virtual_memory().available < 10e9, reason="needs 10 GB of memory")
@pytest.mark.exhaustive
def test_a_task_of_more_than_two_gigabytes():
    (task,) = run_local([Huge(), LengthAndLast()], items(0), fusion="off").tasks
    assert task.data == (Huge.size, 7)
    assert task._stage_perf[-1].custom_metrics["gpuexec.input_bytes"] > Huge.size


def test_no_stages_and_no_tasks():
    with pytest.raises(ConfigurationError, match="there are no stages to run"):
        LocalExecutor().execute([])
    with pytest.raises(ConfigurationError, match="has no stages"):
        Pipeline("p").run(LocalExecutor())


def test_an_option_that_does_not_exist():
    with pytest.raises(ConfigurationError, match="did you mean 'queue_bytes'"):
        LocalExecutor(queue_byte=1)
