"""Finished tasks as they come, from sources that never end."""

from __future__ import annotations

import itertools

import pytest

from gpuexec import ConfigurationError, LocalExecutor, Pipeline
from tests.process import stages
from tests.process.stages import Apply, Item, items


def double(x: int) -> int:
    return 2 * x


def stop_at_seven(x: int) -> int:
    if x == 7:
        raise LookupError("seven")
    return x


def endless():
    return (Item("test", number) for number in itertools.count())


def executor(**options) -> LocalExecutor:
    return LocalExecutor(show_progress=False, **options)


def test_an_endless_source_yields_tasks_until_the_caller_has_enough():
    finished = executor().execute_iter([Apply(double), Apply(double, "again")], endless())
    assert sorted(task.data for task in itertools.islice(finished, 500)) == [4 * n for n in range(500)]
    finished.close()


def test_a_finite_source_is_done_when_it_ends():
    found = list(Pipeline("p", stages=[Apply(double)]).run_iter(executor(), (i for i in items(*range(50)))))
    assert sorted(task.data for task in found) == [2 * n for n in range(50)]
    assert len({task.task_id for task in found}) == 50


def test_a_list_of_tasks_streams_too():
    assert {task.data for task in executor().execute_iter([Apply(double)], items(1, 2))} == {2, 4}


def test_what_the_caller_leaves_lying_holds_the_stages_back():
    read = itertools.count()
    last = 0

    def source():
        nonlocal last
        for last in read:
            yield Item("test", last)

    finished = executor(queue_tasks=10).execute_iter([Apply(double), Apply(double, "again")], source())
    for taken, _ in enumerate(finished):
        if taken == 3000:
            break
    finished.close()
    assert last < 3000 + 4 * 1024, "read ahead: the reader's, two queues', the workers' prefetch"


def test_a_stages_exception_reaches_who_iterates():
    finished = executor().execute_iter([Apply(stop_at_seven)], endless())
    with pytest.raises(LookupError, match="seven"):
        list(finished)


def test_what_the_source_raises_ends_the_run():
    def source():
        yield from items(1, 2)
        raise LookupError("source")

    with pytest.raises(LookupError, match="source"):
        list(executor().execute_iter([Apply(double)], source()))


def test_what_is_no_task_is_told():
    with pytest.raises(ConfigurationError, match="initial task 1 is 5, not a Task"):
        list(executor().execute_iter([Apply(double)], iter([*items(1), 5])))


def test_errors_of_the_pipeline_are_told_at_once():
    with pytest.raises(ConfigurationError, match="no stages"):
        executor().execute_iter([], endless())


def test_a_run_that_was_never_begun_leaves_nothing():
    executor().execute_iter([Apply(stages.kill_self)], endless())
