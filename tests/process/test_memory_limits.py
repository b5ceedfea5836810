"""Workers that are replaced for what they have done or hold, and a host that is short of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpuexec import ProcessingStage
from gpuexec.report.model import RunReport
from tests.process.running import ids_and_data, local_executor, run_inline, run_local
from tests.process.stages import Apply, Item, Range, double, items, same
from tests.process.stages.workloads import MIB, Hoards


def run(*stages: ProcessingStage, count: int, **options: Any) -> RunReport:
    """Check that the results are those of a run without workers, and return the report."""
    ran = run_local(list(stages), items(*range(count)), **options)
    assert ids_and_data(ran.tasks) == ids_and_data(run_inline(list(stages), items(*range(count))))
    assert ran.report.failures == []
    return ran.report


def test_workers_are_replaced_after_some_batches():
    report = run(Apply(double).with_(num_workers=2, batch_size=3), count=60, max_batches_per_worker=4)
    assert sum(worker.batches for worker in report.workers) == 20
    assert max(worker.batches for worker in report.workers) == 4
    assert all(worker.exit_code == 0 and worker.teardown_s is not None for worker in report.workers)
    assert any("it has done max_batches_per_worker (4)" in note for note in report.notes)


def test_each_worker_may_be_limited_to_one_batch():
    report = run(Apply(double).with_(num_workers=1), count=4, max_batches_per_worker=1)
    assert [worker.batches for worker in report.workers] == [1, 1, 1, 1]


def test_workers_are_replaced_when_they_grow():
    report = run(Hoards(), count=30, worker_memory_limit_bytes=150 * MIB)
    assert len(report.workers) > 1
    assert sum(worker.batches for worker in report.workers) == 30
    assert all(worker.exit_code == 0 for worker in report.workers)
    assert any("above worker_memory_limit_bytes (150 MiB)" in note for note in report.notes)


def test_a_worker_above_the_limit_from_the_start_still_works():
    report = run(Apply(double).with_(num_workers=1), count=5, worker_memory_limit_bytes=1)
    assert sum(worker.batches for worker in report.workers) == 5


def test_a_host_that_is_always_short_of_memory_slows_a_run_but_does_not_stop_it():
    stages = [Apply(abs, "first"), Apply(double, "second"), Apply(double, "third").with_(batch_size=4)]
    report = run(*stages, count=100, memory_high_watermark=0.0, fusion="off")
    assert any(note.startswith("pausing intake of new tasks: ") for note in report.notes)


def test_a_lone_source_is_never_held_back_and_nobody_says_so():
    ran = run_local([Range(10)], memory_high_watermark=0.0)
    assert len(ran.tasks) == 10
    assert not any("intake" in note for note in ran.report.notes)


@pytest.mark.parametrize(("watermark", "at_least", "at_most"), [(0.0, 1, 4), (1.0, 50, 100)])
def test_while_memory_is_short_an_iterator_is_read_no_further_than_stages_work(watermark, at_least, at_most):
    read = 0

    def source() -> Iterator[Item]:
        nonlocal read
        for item in items(*range(100)):
            read += 1
            yield item

    stages = [Apply(same, name).with_(num_workers=1) for name in ("first", "second")]
    results = local_executor(memory_high_watermark=watermark).execute_iter(stages, source())
    ahead = [read - got for got, _ in enumerate(results)]
    assert len(ahead) == 100
    assert at_least <= max(ahead) <= at_most
