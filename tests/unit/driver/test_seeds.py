"""The caller's tasks, from lists and from iterators of every pace."""

from __future__ import annotations

import itertools
import select
import threading

import pytest

from gpuexec.driver.seeds import ListedSeeds, StreamedSeeds


def take_all(seeds: StreamedSeeds, most: int = 7) -> list[int]:
    found: list[int] = []
    while (some := seeds.take(most)) is not None:
        found += some
        if not some:
            assert select.select([seeds], [], [], 30)[0], "it wakes the driver when there is something to take"
            seeds.heard()
    return found


def test_a_list_is_taken_in_portions():
    seeds = ListedSeeds(range(5))
    assert [seeds.take(2), seeds.left, seeds.take(9), seeds.left, seeds.take(1)] == [[0, 1], 3, [2, 3, 4], 0, None]


@pytest.mark.parametrize("count", [0, 1, 100, 5000])
def test_an_iterator_is_taken_whole_and_in_order(count):
    seeds = StreamedSeeds(iter(range(count)))
    seeds.start()
    assert take_all(seeds) == list(range(count))
    seeds.close()
    seeds.close()


def test_an_iterator_that_waits_does_not_make_the_driver_wait():
    more = threading.Event()

    def tasks():
        yield 1
        more.wait()
        yield 2

    seeds = StreamedSeeds(tasks())
    seeds.start()
    while not (first := seeds.take(5)):
        select.select([seeds], [], [], 30)
    assert (first, seeds.take(5)) == ([1], [])
    more.set()
    assert take_all(seeds) == [2]
    seeds.close()


def test_an_endless_iterator_is_read_a_little_ahead_only():
    read = itertools.count()
    last = 0

    def tasks():
        nonlocal last
        for last in read:  # noqa: UP028 - its place is noted
            yield last

    seeds = StreamedSeeds(tasks())
    seeds.start()
    taken = 0
    while taken < 10_000:
        some = seeds.take(50)
        assert some is not None
        taken += len(some)
        if not some:
            select.select([seeds], [], [], 30)
            seeds.heard()
    seeds.close()
    assert last < taken + 2_000


def test_what_the_iterator_raises_is_raised_after_what_it_gave():
    def tasks():
        yield 1
        raise LookupError("no more")

    seeds = StreamedSeeds(tasks())
    seeds.start()
    found: list[int] = []

    def take_for_ever():
        while True:
            found.extend(seeds.take(1) or [])

    with pytest.raises(LookupError, match="no more"):
        take_for_ever()
    assert found == [1]
    seeds.close()
