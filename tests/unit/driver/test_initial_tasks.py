"""The caller's tasks, from lists and from iterators of every pace."""

from __future__ import annotations

import itertools
import select
import threading

import pytest

from gpuexec.driver.initial_tasks import ListedTasks, StreamedTasks


def take_all(initial_tasks: StreamedTasks, most: int = 7) -> list[int]:
    found: list[int] = []
    while (some := initial_tasks.take(most)) is not None:
        found += some
        if not some:
            assert select.select([initial_tasks], [], [], 30)[0], "it wakes the driver when there is something to take"
            initial_tasks.on_readable()
    return found


def test_a_list_is_taken_in_portions():
    initial_tasks = ListedTasks(range(5))
    assert [
        initial_tasks.take(2),
        initial_tasks.left,
        initial_tasks.take(9),
        initial_tasks.left,
        initial_tasks.take(1),
    ] == [[0, 1], 3, [2, 3, 4], 0, None]


@pytest.mark.parametrize("count", [0, 1, 100, 5000])
def test_an_iterator_is_taken_whole_and_in_order(count):
    initial_tasks = StreamedTasks(iter(range(count)))
    initial_tasks.start()
    assert take_all(initial_tasks) == list(range(count))
    initial_tasks.close()
    initial_tasks.close()


def test_an_iterator_that_waits_does_not_make_the_driver_wait():
    more = threading.Event()

    def tasks():
        yield 1
        more.wait()
        yield 2

    initial_tasks = StreamedTasks(tasks())
    initial_tasks.start()
    while not (first := initial_tasks.take(5)):
        select.select([initial_tasks], [], [], 30)
    assert (first, initial_tasks.take(5)) == ([1], [])
    more.set()
    assert take_all(initial_tasks) == [2]
    initial_tasks.close()


def test_an_endless_iterator_is_read_a_little_ahead_only():
    read = itertools.count()
    last = 0

    def tasks():
        nonlocal last
        for last in read:  # noqa: UP028 - its place is noted
            yield last

    initial_tasks = StreamedTasks(tasks())
    initial_tasks.start()
    taken = 0
    while taken < 10_000:
        some = initial_tasks.take(50)
        assert some is not None
        taken += len(some)
        if not some:
            select.select([initial_tasks], [], [], 30)
            initial_tasks.on_readable()
    initial_tasks.close()
    assert last < taken + 2_000


def test_what_the_iterator_raises_is_raised_after_what_it_gave():
    def tasks():
        yield 1
        raise LookupError("no more")

    initial_tasks = StreamedTasks(tasks())
    initial_tasks.start()
    found: list[int] = []

    def take_for_ever():
        while True:
            found.extend(initial_tasks.take(1) or [])

    with pytest.raises(LookupError, match="no more"):
        take_for_ever()
    assert found == [1]
    initial_tasks.close()
