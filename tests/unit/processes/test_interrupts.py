"""Signals of a run: noted while it works, raised where it waits."""

from __future__ import annotations

import signal
import threading

import pytest

from gpuexec.processes.interrupts import admitted, held

BOTH = pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
def test_a_signal_waits_for_the_next_wait(number: signal.Signals, error: type[BaseException]):
    done = []

    def work() -> None:
        signal.raise_signal(number)
        done.append("work")
        with admitted():
            done.append("never")

    with pytest.raises(error) as caught, held():
        work()
    assert done == ["work"]
    if error is SystemExit:
        assert caught.value.code == 143


@BOTH
def test_a_signal_ends_a_wait(number: signal.Signals, error: type[BaseException]):
    with held(), pytest.raises(error), admitted():
        signal.raise_signal(number)


def test_a_second_signal_does_not_wait():
    with held():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with held(), admitted():
        pass


def test_a_signal_that_no_wait_follows_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), held():
        signal.raise_signal(signal.SIGINT)


def test_the_programs_own_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with held(), admitted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_other_threads_change_nothing():
    seen = []

    def look() -> None:
        with held(), admitted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
