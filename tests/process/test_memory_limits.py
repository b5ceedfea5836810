"""Workers that are replaced for what they have done or hold, and a host that is short of memory."""

from __future__ import annotations

import time
from typing import Any

from gpuexec import InlineExecutor, LocalExecutor, Pipeline, ProcessingStage
from gpuexec.observe.report import RunReport
from tests.process import stages
from tests.process.stages import Apply, Item, Range, items

MIB = 2**20


class Hoards(ProcessingStage[Item, Item]):
    """Keeps 200 MB from its first batch on. A batch takes a while, as memory is looked at once a second."""

    name = "hoards"

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        self.hoard = b""

    def process(self, task: Item) -> Item:
        self.hoard = self.hoard or b"x" * (200 * MIB)
        time.sleep(0.05)
        return task


def run(*given: ProcessingStage, count: int, **options: Any) -> RunReport:
    """Check that the results are those of a run without workers, and return the report."""
    executor = LocalExecutor(show_progress=False, **options)
    found, expected = (
        [(task.task_id, task.data) for task in Pipeline("p", stages=list(given)).run(e, items(*range(count)))]
        for e in (executor, InlineExecutor())
    )
    assert found == expected
    assert executor.last_report.failures == []
    return executor.last_report


def test_workers_are_replaced_after_some_batches():
    report = run(Apply(stages.double).with_(num_workers=2, batch_size=3), count=60, max_batches_per_worker=4)
    assert sum(worker.batches for worker in report.workers) == 20
    assert max(worker.batches for worker in report.workers) == 4
    assert all(worker.exit_code == 0 and worker.teardown_s is not None for worker in report.workers)
    assert any("it has done max_batches_per_worker (4)" in note for note in report.notes)


def test_one_batch_a_worker():
    report = run(Apply(stages.double).with_(num_workers=1), count=4, max_batches_per_worker=1)
    assert [worker.batches for worker in report.workers] == [1, 1, 1, 1]


def test_workers_are_replaced_when_they_grow():
    report = run(Hoards(), count=30, worker_memory_limit_bytes=150 * MIB)
    assert len(report.workers) > 1
    assert sum(worker.batches for worker in report.workers) == 30
    assert all(worker.exit_code == 0 for worker in report.workers)
    assert any("above worker_memory_limit_bytes (150 MiB)" in note for note in report.notes)


def test_a_worker_that_is_too_large_to_begin_with_still_works():
    report = run(Apply(stages.double).with_(num_workers=1), count=5, worker_memory_limit_bytes=1)
    assert sum(worker.batches for worker in report.workers) == 5


def test_a_host_that_is_always_short_of_memory_slows_a_run_but_does_not_stop_it():
    given = [Apply(abs, "first"), Apply(stages.double, "second"), Apply(stages.double, "third").with_(batch_size=4)]
    report = run(*given, count=100, memory_high_watermark=0.0)
    assert any(note.startswith("pausing intake of new tasks: ") for note in report.notes)


def test_a_lone_source_is_never_held():
    executor = LocalExecutor(show_progress=False, memory_high_watermark=0.0)
    assert len(Pipeline("p", stages=[Range(10)]).run(executor)) == 10
