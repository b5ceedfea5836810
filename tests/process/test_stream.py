"""Finished tasks as they come, from sources that may never end."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpuexec import ConfigurationError, Pipeline, StageNotPicklable
from tests.process.running import local_executor
from tests.process.stages import Apply, ApplyIn, Item, double, items, kill_self, same
from tests.process.stages.retries import DiesWhenTheCallerIsBusy
from tests.process.waiting import wait_until


def endless() -> Iterator[Item]:
    return (Item("test", number) for number in itertools.count())


def test_an_endless_source_yields_tasks_until_the_caller_has_enough():
    finished = local_executor().execute_iter([ApplyIn(1, double), ApplyIn(1, double, "again")], endless())
    assert sorted(task.data for task in itertools.islice(finished, 500)) == [4 * n for n in range(500)]
    finished.close()


def test_a_finite_source_is_done_when_it_ends():
    finished = list(Pipeline("p", stages=[Apply(double)]).run_iter(local_executor(), iter(items(*range(50)))))
    assert sorted(task.data for task in finished) == [2 * n for n in range(50)]
    assert len({task.task_id for task in finished}) == 50


def test_a_source_that_waits_for_results_gets_them_before_its_batch_is_full():
    answers: queue.Queue[int] = queue.Queue()

    def source() -> Iterator[Item]:
        yield Item("test", 1)
        for _ in range(3):
            yield Item("test", answers.get(timeout=20))

    values = []
    stages = [Apply(double).with_(batch_size=4), Apply(same, "again").with_(batch_size=3)]
    for task in local_executor(batch_wait_s=0.1).execute_iter(stages, source()):
        values.append(task.data)
        answers.put(task.data)
    assert values == [2, 4, 8, 16]


def test_a_list_of_tasks_streams_too():
    assert {task.data for task in local_executor().execute_iter([Apply(double)], items(1, 2))} == {2, 4}


def test_a_stream_may_be_taken_from_in_a_thread_that_ends():
    finished = local_executor(max_attempts=1).execute_iter([Apply(same)], items(*range(300)))
    values = []
    thread = threading.Thread(target=lambda: values.append(next(finished).data))
    thread.start()
    thread.join()
    values += [task.data for task in finished]
    assert sorted(values) == list(range(300))


def test_a_slow_caller_holds_the_stages_back():
    read = itertools.count()
    last = 0

    def source() -> Iterator[Item]:
        nonlocal last
        for last in read:
            yield Item("test", last)

    finished = local_executor(queue_tasks=10).execute_iter([Apply(double), Apply(double, "again")], source())
    for taken, _ in enumerate(finished):
        if taken == 3000:
            break
    finished.close()
    assert last < 3000 + 4 * 1024, "read ahead: by the reader, for two queues and for the workers' prefetch"


def test_results_a_dead_worker_sent_are_read_before_its_batches_are_requeued(tmp_path: Path):
    busy, died = tmp_path / "caller is busy", tmp_path / "died"
    initial_tasks = [Item("test", np.full(25_000, number)) for number in range(200)]
    values = []
    for task in local_executor(queue_tasks=1000).execute_iter([DiesWhenTheCallerIsBusy(tmp_path)], initial_tasks):
        values.append(int(task.data[0]))
        if len(values) > 20 and not died.exists():
            busy.touch()
            # How many batches the worker has depends on its speed; with one or none it does not die this time.
            with contextlib.suppress(TimeoutError):
                wait_until(died.exists, within_s=0.2)
            busy.unlink()
    assert died.exists()
    assert sorted(values) == [2 * number for number in range(200)]


def stop_at_seven(value: int) -> int:
    if value == 7:
        raise LookupError("seven")
    return value


def test_a_stages_exception_reaches_the_caller_who_iterates():
    with pytest.raises(LookupError, match="seven"):
        list(local_executor().execute_iter([Apply(stop_at_seven)], endless()))


def test_what_the_source_raises_ends_the_run():
    def source() -> Iterator[Item]:
        yield from items(1, 2)
        raise LookupError("source")

    with pytest.raises(LookupError, match="source"):
        list(local_executor().execute_iter([Apply(double)], source()))


def test_the_error_names_what_is_not_a_task():
    with pytest.raises(ConfigurationError, match="initial task 1 is 5, not a Task"):
        list(local_executor().execute_iter([Apply(double)], iter([*items(1), 5])))


def test_an_iterator_is_for_run_iter_only():
    with pytest.raises(ConfigurationError, match=r"must be a list of tasks, got generator; .* run_iter"):
        Pipeline("p", stages=[Apply(same)]).run(local_executor(), initial_tasks=(item for item in items(1)))


def test_errors_of_the_pipeline_are_raised_by_the_call_itself():
    with pytest.raises(ConfigurationError, match="no stages"):
        local_executor().execute_iter([], endless())


def test_a_stage_that_cannot_be_pickled_leaves_the_callers_iterator_alone():
    taken = []
    source = (taken.append(item) or item for item in items(1, 2))
    with pytest.raises(StageNotPicklable):
        list(local_executor().execute_iter([Apply(threading.Lock().acquire)], source))
    assert not taken


def test_a_run_that_was_never_begun_leaves_nothing():
    local_executor().execute_iter([Apply(kill_self)], endless())
