"""Signals during a run are recorded while it works and raised where it waits."""

from __future__ import annotations

import signal
import threading

import pytest

from gpuexec.processes.interrupts import signals_deferred, signals_delivered

BOTH = pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)


@pytest.fixture(autouse=True)
def handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@BOTH
def test_a_signal_is_raised_at_the_next_wait(number: signal.Signals, error: type[BaseException]):
    steps = []

    def work() -> None:
        signal.raise_signal(number)
        steps.append("worked")
        with signals_delivered():
            steps.append("waited")

    with pytest.raises(error) as caught, signals_deferred():
        work()
    assert steps == ["worked"]
    if error is SystemExit:
        assert caught.value.code == 143


@BOTH
def test_a_signal_ends_a_wait(number: signal.Signals, error: type[BaseException]):
    with signals_deferred(), pytest.raises(error), signals_delivered():
        signal.raise_signal(number)


def test_a_second_signal_is_raised_at_once():
    with signals_deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with signals_deferred(), signals_delivered():
        pass


def test_a_signal_without_a_later_wait_is_raised_at_the_end_of_the_block():
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_the_program_is_left_alone():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with signals_deferred(), signals_delivered():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_in_other_threads_nothing_changes():
    handlers = []

    def record_handler() -> None:
        with signals_deferred(), signals_delivered():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=record_handler)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
